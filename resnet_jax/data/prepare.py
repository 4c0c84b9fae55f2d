"""Converts a copy of CIFAR in another format to a folder in tfds's layout, which every tfds program can read.

tfds needs TensorFlow for this, in its extractor, CIFAR reader and PNG encoder. The builder here has the same name, version and
features, but takes arrays and does not need TensorFlow.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.data.archive import read_archive, verify_archive
from resnet_jax.data.download import download, require_reachable
from resnet_jax.data.messages import writing
from resnet_jax.data.official import Contents
from resnet_jax.data.sources import IMAGE_SHAPE, Source
from resnet_jax.data.tfds_folder import find_folder
from resnet_jax.runtime.cache_folder import delete_leftovers
from resnet_jax.runtime.files import one_process
from resnet_jax.runtime.progress import progress

VERSION = '3.0.2'
Example = dict[str, object]  # a value for each feature


def prepare_folder(source: Source, root: Path, archive: str | os.PathLike[str] | None = None) -> Path:
    """Prepares `<root>/<name>/3.0.2` from the given archive, or else from a download to `<root>/downloads`.

    Processes that share the root prepare the folder only once. The folder appears atomically.

    Args:
      archive: an official archive in binary or python form, or a folder of tables with the official images and labels.

    Raises:
      InputFileError: the archive is missing, damaged or cannot be downloaded.
      ResourceError: the root cannot be written.
    """
    downloads = root / 'downloads'
    given = Path(os.path.expanduser(archive)) if archive else _downloaded(source, downloads)  # noqa: PTH111 (as in tfds_root)
    local = (given, verify_archive(given, source)) if given else None
    if not local:  # before anything is written
        require_reachable(source, root)
    with writing(root):
        downloads.mkdir(parents=True, exist_ok=True)
    with _one_process(downloads / f'{source.name}.lock'):
        if folder := find_folder(root, source.name):
            return folder
        path, copy = local or download(source, root, downloads)
        contents = read_archive(path, copy, source)
        with writing(root):
            delete_leftovers(root / source.name, f'incomplete.*_{VERSION}')  # left by tfds
            _write(source, root, contents)
    return root / source.name / VERSION


def _downloaded(source: Source, downloads: Path) -> Path | None:
    """Returns an archive that an earlier command downloaded, or None."""
    paths = [downloads / copy.files[0].name for copy in source.copies if copy.form != 'parquet']
    return next((path for path in paths if path.exists()), None)


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Holds a lock on a file, so that two commands that start together do not download an archive twice."""
    with contextlib.ExitStack() as lock:
        with writing(path):
            lock.enter_context(one_process(path, f'another process prepares the data (it holds {path}): waiting for it'))
        yield


def _write(source: Source, root: Path, contents: Contents) -> None:
    import tensorflow_datasets as tfds
    from PIL import Image

    with tfds.core.registered.skip_registration():

        class Cifar(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
            """CIFAR from its official archive, prepared without TensorFlow."""

            name = source.name
            VERSION = tfds.core.Version(VERSION)

            def _info(self) -> tfds.core.DatasetInfo:
                features = {'id': tfds.features.Text(), 'image': tfds.features.Image(shape=IMAGE_SHAPE)}
                features |= {key: tfds.features.ClassLabel(names=names) for key, names in contents.names.items()}
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f'{source.name}, the official images and labels.',
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=('image', 'label'),
                    homepage=source.homepage,
                )

            def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Example]]]:
                return {split: self._generate_examples(split) for split in ('train', 'test')}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
                image, label = contents.image[split], contents.label[split]
                with progress(f'Preparing {source.name} {split}', len(image), 'images') as advance:
                    for i in range(len(image)):
                        # tfds's shuffled order depends on the key, which is the index, as in tfds's builder.
                        yield (
                            i,
                            {
                                'id': f'{split}_{i:05d}',
                                'image': Image.fromarray(image[i]),
                                **{key: int(values[i]) for key, values in label.items()},
                            },
                        )
                        advance(1)

    tfds.disable_progress_bar()  # our progress bar is shown instead
    with contextlib.redirect_stdout(io.StringIO()):  # hides tfds's banner
        try:
            Cifar(data_dir=root, file_format='array_record').download_and_prepare()
        except RuntimeError as error:  # the array_record writer raises it when the disk is full
            raise OSError(str(error)) from error
