"""matplotlib with the Agg backend, which only draws files, whatever backend the environment names."""

import os
import sys
from pathlib import Path

from resnet_jax.runtime.files import write_atomically
from resnet_jax.typing import JsonDict

try:
    import matplotlib
except ValueError:  # MPLBACKEND names a backend that is not installed here, as in every terminal inside Jupyter
    _backend = os.environ.pop('MPLBACKEND')
    for _name in [name for name in sys.modules if name.startswith('matplotlib.')]:
        del sys.modules[_name]  # parts of the failed import
    import matplotlib

    os.environ['MPLBACKEND'] = _backend
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ['Axes', 'Figure', 'save']

_BACKENDS = {'.png': 'agg', '.svg': 'svg'}


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as .png or .svg, atomically and with the same bytes every time; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Software': None} if path.suffix == '.png' else {'Date': None}
    options: JsonDict = {'format': path.suffix[1:], 'backend': _BACKENDS[path.suffix], 'metadata': metadata}
    with matplotlib.rc_context({'svg.hashsalt': path.stem}):
        return write_atomically(path, lambda file: figure.savefig(file, dpi=120, **options))
