"""Plots and reports must not fail a run."""

import contextlib
import logging
from collections.abc import Iterator

from resnet_jax.errors import one_line

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def optional(failure: str) -> Iterator[None]:
    """Turns any error in its body, which draws or reports, into a warning: backends and fonts raise many kinds.

    Args:
      failure: the warning before the reason, such as 'The plot could not be drawn'.
    """
    try:
        yield
    except Exception as error:
        kind = '' if isinstance(error, OSError) else f'{type(error).__name__}: '
        logger.warning('%s: %s%s', failure, kind, one_line(error))
