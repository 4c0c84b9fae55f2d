"""Facts about the data sets with an official archive: where it is, what is in it, how many images."""

import dataclasses

from resnet_jax.data.split import DatasetInfo

IMAGE_SHAPE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Label:
    """One of an image's labels: its feature in tfds, the archive's file of class names, the number of classes."""

    key: str
    names_file: str
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Source:
    """An official CIFAR archive in the binary version, and the data set inside it.

    A record of its .bin files is one byte per label, in the order of `labels`, then 3,072 bytes: 32x32 red, green, blue.
    `size` and `sha256` are the archive's, as tfds states them in `url_checksums/<name>.txt`.
    """

    name: str
    url: str
    size: int
    sha256: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    labels: tuple[Label, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int = 50_000
    num_test: int = 10_000

    @property
    def num_classes(self) -> int:
        return next(label.num_classes for label in self.labels if label.key == 'label')

    @property
    def info(self) -> DatasetInfo:
        facts = IMAGE_SHAPE, self.num_classes, self.num_train, self.num_test, self.mean, self.std
        return DatasetInfo(self.name, *facts)

    @property
    def archive_name(self) -> str:
        return self.url.rsplit('/', 1)[-1]


CIFAR10 = Source(
    name='cifar10',
    url='https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    size=170_052_171,
    sha256='c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
    folder='cifar-10-batches-bin',
    train_files=tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    test_files=('test_batch.bin',),
    labels=(Label('label', 'batches.meta.txt', 10),),
    # Over all pixels of the training set. The widespread std 0.2023, 0.1994, 0.2010 is the mean of per-image stds.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = Source(
    name='cifar100',
    url='https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
    size=168_513_733,
    sha256='58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
    folder='cifar-100-binary',
    train_files=('train.bin',),
    test_files=('test.bin',),
    labels=(Label('coarse_label', 'coarse_label_names.txt', 20), Label('label', 'fine_label_names.txt', 100)),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

SOURCES = {source.name: source for source in (CIFAR10, CIFAR100)}
