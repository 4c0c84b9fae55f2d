"""How a data set is loaded: the config fields that the loaders of all data sets take."""

import dataclasses
import os
from typing import Self

from resnet_jax.config import LARGEST_SIDE, TrainConfig
from resnet_jax.errors import ConfigError, shortened

DEFAULT_SIZE = 64  # height and width in pixels


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """The config fields that select and prepare data, under their names in `TrainConfig`.

    Attributes:
      data_dir: the tfds root; if empty, TFDS_DATA_DIR, and if that is empty, ~/tensorflow_datasets.
      data_archive: path of an official archive of a CIFAR data set, or of a folder of its tables; may be empty.
      image_size: height and width in pixels; 0 for the size of the images or, if their sizes differ or are larger than 256
        pixels, `default_size`.
      resize: 'crop' for the centre square, 'squash' for the whole image without keeping its proportions, 'pad' for the whole
        image with black bars.
      test_fraction: share of each class that becomes the test split, if the data set has none.
      broken_images: 'stop' to raise an error for an image that cannot be read, 'skip' to leave it out.
      normalization: name of mean and std, see `data.normalization`; if empty, those of the training images.
      follow_links: whether links that lead out of a folder of images are followed.
      decode: 'once' to decode all images into arrays that are kept in the cache, or 'always' to decode an image each time it is
        used.
      test_crop: with decode='always', the central share of an image that an evaluation uses: see `data.images.read_image`.

    Raises:
      ConfigError: a value is not one that `TrainConfig` takes; with decode='always', `image_size` or `normalization` is missing
        or `broken_images` is 'skip'; or `test_crop` is set without decode='always'.
    """

    data_dir: str | os.PathLike[str] = TrainConfig.data_dir
    data_archive: str | os.PathLike[str] = TrainConfig.data_archive
    image_size: int = TrainConfig.image_size
    default_size: int = DEFAULT_SIZE
    resize: str = TrainConfig.resize
    test_fraction: float = TrainConfig.test_fraction
    normalization: str = ''
    broken_images: str = TrainConfig.broken_images
    follow_links: bool = TrainConfig.follow_links
    decode: str = TrainConfig.decode
    test_crop: float = TrainConfig.test_crop

    def __post_init__(self) -> None:
        for name in ('data_dir', 'data_archive', 'normalization'):
            if getattr(self, name) is None:
                object.__setattr__(self, name, '')
        given = {name: getattr(self, name) for name in self._names()}
        values = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}
        if isinstance(self.normalization, str) and not self.normalization:
            del values['normalization']  # '' is no name, and here stands for none
        checked = TrainConfig(**values)
        for name in values:
            if not isinstance(given[name], os.PathLike):
                object.__setattr__(self, name, getattr(checked, name))  # of NumPy's numbers it makes Python's
        if not isinstance(self.default_size, int) or not 1 <= self.default_size <= LARGEST_SIDE:
            raise ConfigError(
                f'default_size is {shortened(self.default_size)}; expected an integer of at least 1 and at most {LARGEST_SIDE}'
            )
        if self.decode != 'always':
            if self.test_crop != 1:
                raise ConfigError(f"test_crop={self.test_crop} is for decode='always'; expected it with test_crop")
            return
        if not self.image_size:
            raise ConfigError("decode='always' does not look at all images first; expected their size, such as image_size=224")
        if not self.normalization:
            raise ConfigError(
                "decode='always' does not look at all images first; expected mean and std, such as normalization='imagenet'"
            )
        if self.broken_images == 'skip':
            raise ConfigError(
                "decode='always' meets broken images too late to skip them; expected broken_images='stop', and none "
                'of them in the folder',
                topic='broken_images',
            )

    @property
    def interpolation(self) -> str:
        """How image files are resized: with decode='always' bilinear, as in the recipes with random resized crops."""
        return 'bilinear' if self.decode == 'always' else 'bicubic'

    @classmethod
    def of(cls, config: object, default_size: int = DEFAULT_SIZE) -> Self:
        """Returns the options in a config."""
        options = {name: getattr(config, name) for name in cls._names()}
        if options['normalization'] in ('auto', 'dataset'):  # training decides whether it is that of weights
            options['normalization'] = ''
        return cls(**options, default_size=default_size)

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls) if field.name != 'default_size']


DEFAULTS = LoadOptions()
