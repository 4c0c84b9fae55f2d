"""configs/quickstart.py, in which process 1 has what DIFFERENT names: another version of the package, other source
files, or one other pixel."""

import os
import sys

from configs import quickstart


def get_config():
    if '--process_id=1' in sys.argv:
        if os.environ['DIFFERENT'] == 'version':
            import resnet_jax

            resnet_jax.__version__ = '9.9'
        elif os.environ['DIFFERENT'] == 'source':
            from resnet_jax.runtime import distributed

            distributed.source_hash = lambda: '0123456789abcdef'
        else:
            import sklearn.datasets

            bunch = sklearn.datasets.load_digits()
            bunch.images[0, 0, 0] += 1
            sklearn.datasets.load_digits = lambda: bunch
    return quickstart.get_config()
