"""Downloads a copy of a data set from the first server that is fast enough; resumes, and installs only verified files."""

import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from resnet_jax.data.messages import writing
from resnet_jax.data.sources import Copy, File, Source
from resnet_jax.errors import InputFileError
from resnet_jax.runtime import download as transfer
from resnet_jax.runtime.files import sha256_of

logger = logging.getLogger(__name__)
SLOW = 400_000  # bytes per second; a slower server is left if there are others


def no_data_error(source: Source, root: Path, reason: str) -> InputFileError:
    """Returns an error whose one-line message says how to get the data."""
    archives = ' or '.join(copy.files[0].name for copy in source.copies if copy.form != 'parquet')
    return InputFileError(
        f"no data set '{source.name}' in {root}, and it cannot be downloaded ({reason}): "
        f'expected one of three: (1) a network: try again; (2) {archives} from elsewhere: '
        'data_archive=FILE; (3) a folder prepared by tfds: data_dir=DIR or TFDS_DATA_DIR=DIR. '
        'Without any data: the config quickstart, or dataset=synthetic_cifar10'
    )


def require_reachable(source: Source, root: Path) -> None:
    """Checks that at least one server answers, with any status. All servers are asked at the same time.

    Raises:
      InputFileError: no server answers within TIMEOUT_SECONDS.
    """
    urls = {_host(url): _of_endpoint(url) for copy in source.copies for file in copy.files for url in file.urls}
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def ask(url: str) -> None:
        reason = None
        try:
            transfer.open_url(url).close()
        except urllib.error.HTTPError as error:  # also an answer; the download reports the error
            error.close()
        except transfer.NETWORK_ERRORS as error:
            reason = transfer.reason_of(error)
        answers.put((url, reason))

    for url in urls.values():
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    reasons = {}
    for _ in urls:
        url, reason = answers.get()
        if reason is None:
            return
        reasons[url] = reason
    raise no_data_error(source, root, _join(reasons))


def download(source: Source, root: Path, folder: Path) -> tuple[Path, Copy]:
    """Downloads one copy of the data set into a folder, each file via `<file>.part`, from which a later attempt resumes.

    The servers are tried in order. After a dead or slow server the next one is tried; if it has the same file, it continues the
    partial file. If all servers are slow, the fastest one continues.

    Returns:
      The path of the copy (its file, or the folder of its files), and the copy.

    Raises:
      InputFileError: no server sends a whole file with the right hash.
      ResourceError: a file cannot be written.
    """
    servers = _Servers()
    for attempt in range(transfer.ATTEMPTS):
        if attempt and not servers.rates:
            logger.warning('download of %s interrupted (%s); trying again', source.name, _join(servers.reasons))
            time.sleep(transfer.BACKOFF_SECONDS * attempt)
        for copy in sorted(source.copies, key=lambda copy: -servers.rate(url for file in copy.files for url in file.urls)):
            where = folder / f'{source.name}-parquet' if copy.form == 'parquet' else folder
            with writing(where):
                where.mkdir(parents=True, exist_ok=True)
            if all(servers.fetch(file, where / file.name) for file in copy.files):
                _delete_parts(source, folder)
                return (where if copy.form == 'parquet' else where / copy.files[0].name), copy
        if not servers.left(url for copy in source.copies for file in copy.files for url in file.urls):
            break
        servers.patient = True
    raise no_data_error(source, root, _join(servers.reasons))


def _delete_parts(source: Source, folder: Path) -> None:
    """Deletes the partial files of other copies."""
    for where in (folder, folder / f'{source.name}-parquet'):
        for file in (file for copy in source.copies for file in copy.files):
            (where / f'{file.name}.part').unlink(missing_ok=True)


class _Servers:
    """The known facts about the servers, by address.

    Attributes:
      rates: bytes per second of the servers that were left because they were slow.
      reasons: why the last attempt failed.
      patient: whether slow servers may continue, because all others have been tried.
    """

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        self.patient = False
        self._failed: Counter[str] = Counter()

    def rate(self, urls: Iterable[str]) -> float:
        return max(self.rates.get(url, 0.0) for url in urls)

    def left(self, urls: Iterable[str]) -> bool:
        """Returns whether one of these addresses is worth another attempt."""
        return any(self._failed[url] < transfer.ATTEMPTS for url in urls)

    def fetch(self, file: File, path: Path) -> bool:
        """Downloads a file to `path`, trying one server after the other; returns whether one had the file."""
        if path.exists() and sha256_of(path) == file.sha256:
            return True
        part = path.with_name(f'{path.name}.part')
        for url in sorted(file.urls, key=lambda url: -self.rates.get(url, 0.0)):
            while self._failed[url] < transfer.ATTEMPTS:
                before = part.stat().st_size if part.is_file() else 0
                try:
                    if before < file.size:
                        transfer.fetch(
                            _of_endpoint(url),
                            part,
                            before,
                            label='an archive',
                            writing=writing,
                            size=file.size,
                            title=f'Downloading {file.name} from {_host(url)}',
                            slow=0.0 if self.patient else SLOW,
                        )
                    if (digest := sha256_of(part)) == file.sha256:
                        part.replace(path)
                        return True
                    part.unlink()
                    if not before:
                        raise transfer.WrongFileError(f'a file with SHA-256 {digest}: expected {file.sha256}')
                    self._note(url, f'the file resumed at byte {before} has SHA-256 {digest}: expected {file.sha256}')
                except transfer.SlowError as error:
                    self.rates[url] = error.rate
                    self.reasons[url] = str(error)
                    logger.warning('%s sends %s: trying another server', _host(url), error)
                    break
                except transfer.WrongFileError as error:
                    self._failed[url] = transfer.ATTEMPTS
                    self.reasons[url] = str(error)
                except urllib.error.HTTPError as error:
                    error.close()
                    self._note(url, transfer.reason_of(error))
                    if error.code == 416:  # the partial file is not a prefix of the server's file
                        part.unlink(missing_ok=True)
                    elif 400 <= error.code < 500 and error.code not in (408, 429):
                        self._failed[url] = transfer.ATTEMPTS
                    break
                except transfer.NETWORK_ERRORS as error:
                    self._note(url, transfer.reason_of(error))
                    if (part.stat().st_size if part.exists() else 0) <= before:
                        break  # no data came
                    logger.warning('download of %s interrupted (%s); trying again', url, self.reasons[url])
                    time.sleep(transfer.BACKOFF_SECONDS)
        return False

    def _note(self, url: str, reason: str) -> None:
        self._failed[url] += 1
        self.reasons[url] = reason + (f'; {transfer.ATTEMPTS} attempts' if self._failed[url] == transfer.ATTEMPTS else '')


def _of_endpoint(url: str) -> str:
    """Returns the address of a file on the Hugging Face hub, with HF_ENDPOINT as the server."""
    hub, endpoint = 'https://huggingface.co/', os.environ.get('HF_ENDPOINT')
    return f'{endpoint.rstrip("/")}/{url.removeprefix(hub)}' if endpoint and url.startswith(hub) else url


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _join(reasons: dict[str, str]) -> str:
    """Returns the reasons, each with the servers to which it applies."""
    hosts: dict[str, list[str]] = {}
    for url, reason in reasons.items():
        hosts.setdefault(reason, []).append(_host(url))
    return '; '.join(f'{", ".join(dict.fromkeys(names))}: {reason}' for reason, names in hosts.items())
