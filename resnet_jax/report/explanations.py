"""A figure of explanations: a row for each image, with the parts and pixels that speak for the predicted class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.report.figures import Axes, Figure, default_style
from resnet_jax.runtime.untrusted import printable

_COLUMNS = ('image', 'Grad-CAM (bright: for the class)', 'size of the gradient', 'integrated gradients (blue: for)')


class Explained(NamedTuple):
    """An image and its explanations, as `evaluation.explanations` computes them.

    Attributes:
      title: the heading of the row, such as the file and the answer.
      image: uint8 `[height, width, channels]`.
      grad_cam: float32 `[height, width]` from 0 to 1.
      gradients, integrated: float32 like the image.
    """

    title: str
    image: np.ndarray
    grad_cam: np.ndarray
    gradients: np.ndarray
    integrated: np.ndarray


@default_style()
def draw_explanations(rows: Sequence[Explained]) -> Figure:
    """Draws a row for each image: the image, and over it in grey Grad-CAM, then gradients and integrated gradients by pixel."""
    figure = Figure(figsize=(9.2, 0.5 + 2.55 * len(rows)), layout='constrained')
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        part.suptitle(printable(row.title), size=10, parse_math=False)
        axes = part.subplots(1, 4)
        grey = row.image.mean(-1)
        for axis, title in zip(axes, _COLUMNS, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, size=8, color='#555555')
        _show(axes[0], row.image)
        axes[1].imshow(grey, cmap='gray', vmin=0, vmax=255)
        axes[1].imshow(row.grad_cam, cmap='inferno', vmin=0, vmax=1, alpha=0.6)
        strength = np.abs(row.gradients).sum(-1)
        axes[2].imshow(strength, cmap='magma', vmin=0, vmax=max(float(np.quantile(strength, 0.99)), 1e-12))
        added = row.integrated.sum(-1)
        span = max(float(np.quantile(np.abs(added), 0.99)), 1e-12)
        axes[3].imshow(added, cmap='RdBu', vmin=-span, vmax=span)  # blue speaks for the class, red against it
    return figure


def _show(axis: Axes, image: np.ndarray) -> None:
    if image.shape[-1] == 3:
        axis.imshow(image)
    else:
        axis.imshow(image[..., 0], cmap='gray', vmin=0, vmax=255)
