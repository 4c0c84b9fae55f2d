"""configs/quickstart.py, in which process 1 has what DIFFERENT names: another version of the package, other source
files, or one other pixel."""

import os
import sys

from resnet_jax.configs import quickstart


def get_config():
    if '--process_id=1' in sys.argv:
        if os.environ['DIFFERENT'] == 'version':
            import resnet_jax

            resnet_jax.__version__ = '9.9'
        elif os.environ['DIFFERENT'] == 'source':
            from resnet_jax.runtime import distributed

            distributed.source_hash = lambda: '0123456789abcdef'
        else:
            from resnet_jax.data import digits

            pixels, label = digits._read()
            pixels[0, 0, 0] += 1
            digits._read = lambda: (pixels, label)
    return quickstart.get_config()
