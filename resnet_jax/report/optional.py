"""Plots and reports whose errors must not end a run."""

import contextlib
import logging
from collections.abc import Iterator

from resnet_jax.errors import one_line
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.rows import METRICS

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def optional(failure: str) -> Iterator[None]:
    """Turns any error in its body, which draws or reports, into a warning: backends and fonts raise many kinds of errors.

    Args:
      failure: the warning before the reason, such as 'The plot could not be drawn'.
    """
    try:
        yield
    except Exception as error:
        kind = '' if isinstance(error, OSError) else f'{type(error).__name__}: '
        logger.warning('%s: %s%s', failure, kind, one_line(error))


def plot_so_far(folder: RunFolder) -> None:
    """Plots the metrics of a run so far, if there are any and this process writes files."""
    if folder.primary and (folder.path / METRICS).exists():
        with optional('The plot could not be drawn'):  # an error here must not hide the error that ended the run
            from resnet_jax.report.plots import plot_training  # matplotlib takes half a second

            plot_training(folder.path)
