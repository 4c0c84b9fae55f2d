"""A sheet of images: one row for each class."""

from collections.abc import Sequence

import numpy as np

from resnet_jax.report.figures import Figure, default_style
from resnet_jax.runtime.untrusted import printable


@default_style()
def draw_samples(images: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws images in a grid.

    Args:
      images: uint8 `[rows, columns, height, width, channels]` with 1 or 3 channels.
      names: one for each row.
    """
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(1.2 + 0.8 * columns, 0.8 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, name in enumerate(names):
        for column in range(columns):
            axis = axes[row, column]
            image = images[row, column]
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap='gray', vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        label = printable(name)
        label = label if len(label) <= 16 else f'{label[:15]}…'
        # No mathematical text: a name may contain dollar signs.
        axes[row, 0].set_ylabel(label, rotation=0, ha='right', va='center', parse_math=False)
    return figure
