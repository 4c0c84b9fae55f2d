"""matplotlib with the Agg backend and the default style; ignores the environment and the user's matplotlibrc."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.errors import ConfigError, one_line
from resnet_jax.runtime.files import write_atomically
from resnet_jax.typing import JsonDict

try:
    import matplotlib
except ValueError:  # MPLBACKEND names a backend that is not installed, as in a terminal inside Jupyter
    _backend = os.environ.pop('MPLBACKEND', None)
    for _name in [name for name in sys.modules if name.startswith('matplotlib.')]:
        del sys.modules[_name]  # parts of the failed import
    try:
        import matplotlib
    except ValueError as error:
        raise ConfigError(
            f'matplotlib cannot be imported ({one_line(error)}); expected a sound matplotlibrc: correct or delete it'
        ) from None
    finally:
        if _backend is not None:
            os.environ['MPLBACKEND'] = _backend
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ['Axes', 'Figure', 'default_style', 'save']

_BACKENDS = {'.png': 'agg', '.svg': 'svg'}


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Draws like matplotlib without a matplotlibrc: this file may ask for LaTeX or for a page too large to draw.

    Also a decorator. Text takes its style when it is made, so every function that draws needs this context, not only `save`.
    """
    style = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith('backend')}
    with matplotlib.rc_context(style):
        yield


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as .png or .svg, atomically and with equal bytes every time; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Software': None} if path.suffix == '.png' else {'Date': None}
    options: JsonDict = {'format': path.suffix[1:], 'backend': _BACKENDS[path.suffix], 'metadata': metadata}
    with default_style(), matplotlib.rc_context({'svg.hashsalt': path.stem}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from')  # drawn as a box
        return write_atomically(path, lambda file: figure.savefig(file, dpi=120, **options))
