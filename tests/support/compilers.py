"""What the machine has to compile C with."""

import os
import shutil


def has_compiler():
    """Whether there is a C compiler, so that kernels which do not build are a failure and no reason to skip."""
    return bool(os.environ.get('CC') or any(map(shutil.which, ('cc', 'gcc', 'clang'))))
