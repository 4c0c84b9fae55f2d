"""What shows a run decides over none."""

import contextlib
import logging
from collections.abc import Iterator

from resnet_jax.errors import one_line

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def optional(failure: str) -> Iterator[None]:
    """Turns whatever goes wrong in its body, which draws or reports, into a warning: backends and fonts raise all kinds.

    Args:
      failure: what the warning says before the reason, as 'The plot could not be drawn'.
    """
    try:
        yield
    except Exception as error:
        kind = '' if isinstance(error, OSError) else f'{type(error).__name__}: '
        logger.warning('%s: %s%s', failure, kind, one_line(error))
