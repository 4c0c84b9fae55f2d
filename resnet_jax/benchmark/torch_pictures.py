"""PyTorch's side of the decoding benchmark: the work of torchvision's ImageFolder and transforms, in a DataLoader.

ImageFolder opens a file and converts it to RGB; RandomResizedCrop draws a box, crops and resizes it bilinearly;
RandomHorizontalFlip flips half of the pictures; ToTensor scales to float32 `[channels, height, width]`, and PILToTensor keeps
uint8. torchvision itself is not needed.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from resnet_jax.benchmark.decoding import AREA, SIZE, peak_bytes, seconds_for
from resnet_jax.data.folder import open_folder
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.order import epoch_order
from resnet_jax.errors import ConfigError
from resnet_jax.typing import JsonDict

_PREFETCH = 2  # number of batches that each worker keeps ready, DataLoader's default


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The files of a folder with their labels."""

    def __init__(self, paths: list[str], labels: list[int], *, floats: bool):
        self._paths, self._labels, self._floats = paths, labels, floats

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self._paths[index], 'rb') as file:  # noqa: PTH123
            image = Image.open(file).convert('RGB')
        left, top, width, height = random_box(*image.size)
        image = image.crop((left, top, left + width, top + height)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
        return (tensor.float().div(255) if self._floats else tensor), self._labels[index]


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Returns (left, top, width, height) of RandomResizedCrop."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = width * height * torch.empty(1).uniform_(AREA, 1).item()
        ratio = math.exp(torch.empty(1).uniform_(low, high).item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = torch.randint(0, height - h + 1, (1,)).item()
            return int(torch.randint(0, width - w + 1, (1,)).item()), int(top), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


class Decoding:
    """The training pictures of a folder in a DataLoader, in the order of our side."""

    def __init__(self, dataset: str, batch_size: int, workers: int):
        scheme, _, path = dataset.partition(':')
        if scheme != 'folder':
            raise ConfigError(f'the PyTorch peer reads folders; expected folder:PATH, not {dataset!r}')
        train = open_folder(dataset, path, LoadOptions()).train
        self._paths, self._labels = [train.describe(i) for i in range(len(train.label))], train.label.tolist()
        self._batch_size, self._workers = batch_size, workers

    def describe(self) -> JsonDict:
        """Returns the version."""
        return {'torch': torch.__version__}

    def run(self, *, variant: str, batches: int) -> float:
        """Returns the seconds for `batches` batches."""
        warm_up = (_PREFETCH + 1) * self._workers + 1
        needed = warm_up + batches
        loader = DataLoader(
            Pictures(self._paths, self._labels, floats=variant == 'float'),
            batch_sampler=list(self._order(needed + _PREFETCH * self._workers)),
            num_workers=self._workers,
            prefetch_factor=_PREFETCH,
        )
        return seconds_for(iter(loader), warm_up, batches)

    def peak_bytes(self) -> int:
        """Returns the largest resident memory so far: of this process, and of the largest of its workers."""
        return peak_bytes()

    def _order(self, batches: int) -> Iterator[list[int]]:
        per_epoch = len(self._paths) // self._batch_size
        for step in range(batches):
            epoch, within = divmod(step, per_epoch)
            yield epoch_order(0, epoch, len(self._paths), self._batch_size)[within].tolist()
