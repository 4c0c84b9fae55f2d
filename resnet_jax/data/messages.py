"""One-line messages out of other people's exceptions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.errors import ResourceError


def one_line(error: object) -> str:
    """Returns the error's message on one line; its class where it has none."""
    return ' '.join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of its body, which writes `path` or below it, into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f'cannot write {path} ({one_line(error.strerror or error)}): expected a writable folder with 1 GB free; '
            'choose another with --config.data_dir=DIR or TFDS_DATA_DIR=DIR'
        ) from error
