"""`folder:PATH`: images in one folder per class; above these may be train/ and val/ or test/."""

import dataclasses
import hashlib
import itertools
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.data.encoded import EncodedDataset, Subset, place_of, split_by_class
from resnet_jax.data.images import suffixes
from resnet_jax.data.options import LoadOptions
from resnet_jax.errors import InputFileError
from resnet_jax.runtime.untrusted import printable

logger = logging.getLogger(__name__)

_SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'dev'), 'test': ('test', 'testing')}
_LAYOUT = 'expected one folder of images for each class, such as PATH/cat/1.jpg, or PATH/train/cat/1.jpg and PATH/val/cat/2.jpg'


@dataclasses.dataclass(frozen=True)
class _File:
    """An image file: its path, its class, and its state when the folder was read."""

    path: str
    within_class: str
    class_name: str
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; unlike the time of modification, a program cannot set it


class _Files:
    """The image files of a split: see `EncodedSplit`.

    The files are stored in a few arrays: a million objects would take a gigabyte in each process that decodes.
    """

    def __init__(self, files: list[_File], class_names: tuple[str, ...]):
        number = {name: i for i, name in enumerate(class_names)}
        self.label = np.array([number[file.class_name] for file in files], np.int32)
        paths = [os.fsencode(file.path) for file in files]
        self._paths, self._ends = b''.join(paths), np.cumsum([0, *map(len, paths)])
        self._size = np.array([file.size for file in files], np.int64)
        self._modified = np.array([file.modified for file in files], np.int64)

    def read(self, index: int) -> bytes:
        path, size = self.describe(index), int(self._size[index])
        try:
            with open(path, 'rb') as opened:  # noqa: PTH123 (creating a Path for each of a million files takes long)
                status = os.fstat(opened.fileno())
                data = opened.read(size + 1)
        except OSError as error:
            raise InputFileError(f'{path} cannot be read: {error.strerror}; expected an image') from None
        if (status.st_size, status.st_mtime_ns, len(data)) != (size, int(self._modified[index]), size):
            raise InputFileError(f'{path} was changed while the data set was read; start again when nothing writes to it')
        return data

    def describe(self, index: int) -> str:
        return os.fsdecode(self._paths[self._ends[index] : self._ends[index + 1]])


def open_folder(name: str, path: str, options: LoadOptions) -> EncodedDataset:
    """Lists the images of a folder. Leaves out and counts hidden files and files without the suffix of an image.

    A class has the name of its folder, and includes the images in the folders below it. With `train/`, the test split is
    `test/`, or `val/` if there is no `test/`; with both, `val/` is the validation split. Without these, or with `train/` alone,
    a share of each class becomes the test split. `training/`, `valid/`, `validation/`, `dev/` and `testing/` are other names
    for these folders, in upper or lower case. Classes are sorted by name, and images by their path within the class, so the
    order is equal on every machine.

    Args:
      name: the name of the data set.

    Raises:
      InputFileError: there is no such folder, there are fewer than two classes, a split has no images of a class, or it is not
        clear which folder is which split.
    """
    root = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises where there is no home)
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises where the name is too long)
        raise InputFileError(f'{printable(str(root))[:300]} is not a folder; {_LAYOUT}')
    walk = _Walk(root, options.follow_links)
    parts = _split_folders(root, walk.folders(root))
    if not parts:
        splits = {'': walk.classes(root)}
    else:
        splits = {folder if len(parts) > 1 else '': walk.classes(root / folder) for folder in parts.values()}
        walk.count_outside(root, set(parts.values()))
    notes: tuple[str, ...] = ()
    if walk.skipped:
        counts = ', '.join(f'{count:,} {kind}' for kind, count in walk.skipped.most_common())
        logger.info('%s: %s left out', root, counts)
        notes = (f'{counts} left out',)
    class_names = _class_names(root, splits)
    version = hashlib.sha256()
    place = place_of(root, ((f.path, f.changed) for each in splits.values() for f in itertools.chain(*each.values())))
    files = {}
    for part, classes in splits.items():
        # By file name first: files that are numbered across all classes, as often in exported data sets, keep their order.
        ordered = sorted(itertools.chain(*classes.values()), key=lambda file: (file.within_class, file.class_name))
        files[part] = _Files(ordered, class_names)
        for file in ordered:
            entry = (part, file.class_name, file.within_class, str(file.size), str(file.modified))
            version.update(os.fsencode('\0'.join(entry) + '\n'))
    if '' in files:
        version.update(f'test_fraction {options.test_fraction}'.encode())
        train, test = (Subset(files[''], part) for part in split_by_class(files[''].label, options.test_fraction, class_names))
        return EncodedDataset(name, train, test, class_names, version.hexdigest(), place=place, notes=notes)
    train_files, *others = files.values()  # in the order of `_SPLITS`
    validation = others[0] if len(others) > 1 else None
    facts = class_names, version.hexdigest(), validation
    return EncodedDataset(name, train_files, others[-1], *facts, place=place, notes=notes)


def _split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Returns the names of the folders of the splits, in the order of `_SPLITS`; empty if the folders are classes.

    Raises:
      InputFileError: two folders may be the same split, or there are test images without training images.
    """
    found = {part: [name for name in folders if name.lower() in names] for part, names in _SPLITS.items()}
    parts = {part: names[0] for part, names in found.items() if names}
    if len(parts) < 2 and sum(map(len, found.values())) < len(folders):
        return {}  # classes, one of which has such a name
    if 'train' not in parts:
        if len(parts) < 2 or sum(map(len, found.values())) < len(folders):
            return {}
        raise InputFileError(f'{root} has {" and ".join(f"{name}/" for name in parts.values())} but no train/; {_LAYOUT}')
    for names in found.values():
        if len(names) > 1:
            raise InputFileError(f'{root} has {names[0]!r} and {names[1]!r}; expected one of them: merge or rename them')
    return parts


def _class_names(root: Path, splits: dict[str, dict[str, list[_File]]]) -> tuple[str, ...]:
    """Returns the sorted names of the classes.

    Raises:
      InputFileError: there are fewer than two classes, or a split lacks one.
    """
    names = sorted({name for classes in splits.values() for name in classes})
    for part, classes in splits.items():
        for name in names:
            if not classes.get(name):
                raise InputFileError(
                    f'{str(root / part / name)!r} holds no images: expected some of each class'
                    f'{" in each split" if part else ""}; add some, or remove the class'
                )
    if len(names) < 2:
        kind = f'one class, {names[0][:80]!r}' if names else 'no images'
        raise InputFileError(f'{root} holds {kind}; {_LAYOUT}')
    return tuple(names)


class _Walk:
    """Lists folders below a root, and counts the entries that it leaves out."""

    def __init__(self, root: Path, follow_links: bool):
        self._root, self._follow_links = os.path.realpath(root), follow_links
        self._suffixes = suffixes()
        self.skipped: Counter[str] = Counter()

    def folders(self, folder: Path) -> list[str]:
        """Returns the sorted names of the folders in a folder, and counts no entry."""
        before = self.skipped.copy()
        names = [entry.name for entry in self._entries(folder) if entry.is_dir()]
        self.skipped = before
        return names

    def count_outside(self, root: Path, splits: set[str]) -> None:
        """Counts the entries of the root that are not folders of splits."""
        for entry in self._entries(root):
            if entry.name not in splits:
                kind = 'folders that are no split' if entry.is_dir() else self._kind(entry.name)
                self.skipped[kind] += 1

    def _kind(self, name: str) -> str:
        return 'outside the folders of classes' if self._is_image(name) else 'not images'

    def classes(self, folder: Path) -> dict[str, list[_File]]:
        """Returns the image files below each folder in a folder."""
        result = {}
        for entry in self._entries(folder):
            if entry.is_dir():
                result[entry.name] = list(self._files(folder / entry.name, entry.name, '', set()))
            else:
                self.skipped[self._kind(entry.name)] += 1
        return result

    def _files(self, folder: Path, class_name: str, within: str, seen: set[str]) -> Iterator[_File]:
        real = os.path.realpath(folder)
        if real in seen:  # links may lead to a folder above, or in 2^n ways to a folder below
            self.skipped['links to folders of the same class'] += 1
            return
        seen.add(real)
        for entry in self._entries(folder):
            name = f'{within}{entry.name}'
            if entry.is_dir():
                yield from self._files(folder / entry.name, class_name, f'{name}/', seen)
                continue
            if not self._is_image(entry.name):
                self.skipped['not images'] += 1
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a folder that may be listed, but not entered
                raise InputFileError(f'cannot read {entry.path}: {error.strerror}; change the permissions') from None
            if not stat.S_ISREG(status.st_mode):
                self.skipped['not files'] += 1
                continue
            yield _File(entry.path, name, class_name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _is_image(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self._suffixes  # noqa: PTH122 (see above)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Returns the sorted entries of a folder, without hidden entries, broken links and links out of the root.

        Raises:
          InputFileError: the folder cannot be read.
        """
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise InputFileError(f'cannot read {folder}: {error.strerror}; change its permissions') from None
        return [entry for entry in entries if self._counts(entry)]

    def _counts(self, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(('.', '__MACOSX')):
            self.skipped['hidden'] += 1
            return False
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if not os.path.exists(real):  # noqa: PTH110
                self.skipped['broken links'] += 1
                return False
            if not self._follow_links and os.path.commonpath([real, self._root]) != self._root:
                self.skipped['links out of the folder (follow_links=True follows them)'] += 1
                return False
        return True
