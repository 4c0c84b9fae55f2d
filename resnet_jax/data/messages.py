"""The error for data that cannot be written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.errors import ResourceError, one_line


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError raised while writing `path`, or below it, into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f'cannot write {path} ({one_line(error.strerror or error)}): expected a writable folder with 1 GB free; '
            'choose another with data_dir=DIR or TFDS_DATA_DIR=DIR'
        ) from error
