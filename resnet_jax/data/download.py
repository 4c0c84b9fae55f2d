"""Downloads an official archive; if it cannot be had, says in one line how to get the data."""

from pathlib import Path

from resnet_jax.data.messages import writing
from resnet_jax.data.sources import Source
from resnet_jax.errors import InputFileError
from resnet_jax.runtime import download as transfer


def no_data_error(source: Source, root: Path, reason: object) -> InputFileError:
    """Returns an error that says in one line how to get the data."""
    return InputFileError(
        f"no data set '{source.name}' in {root}, and {source.url} cannot be downloaded ({reason}): "
        f'expected one of three: (1) a network: run the same command again; (2) {source.archive_name} from elsewhere: '
        'data_archive=FILE; (3) a folder prepared by tfds: data_dir=DIR or TFDS_DATA_DIR=DIR. '
        'Without any data: the config quickstart, or dataset=synthetic_cifar10'
    )


def require_reachable(source: Source, root: Path) -> None:
    """Checks that the server answers, with any status.

    Raises:
        InputFileError: it does not answer in time.
    """
    try:
        transfer.require_reachable(source.url)
    except transfer.DownloadError as error:
        raise no_data_error(source, root, error) from error


def download(source: Source, root: Path, path: Path) -> None:
    """Downloads the archive to `path` via `<path>.part`, from which a later attempt or command resumes.

    Raises:
        InputFileError: the server cannot be reached, or does not send the official archive.
        ResourceError: the file cannot be written.
    """
    try:
        transfer.download(source.url, path, what='an archive', writing=writing, size=source.size, sha256=source.sha256)
    except transfer.WrongFileError as error:
        raise InputFileError(
            f'{source.url} sent {error}; try later or pass the official archive with data_archive=FILE'
        ) from error
    except transfer.DownloadError as error:
        raise no_data_error(source, root, error) from error
