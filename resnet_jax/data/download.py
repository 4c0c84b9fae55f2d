"""Downloads a copy of a data set: from the first server that is fast enough, resumed, verified, and never half in its place."""

import hashlib
import http.client
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
from resnet_jax.data.progress import progress
from resnet_jax.data.sources import Copy, File, Source
from resnet_jax.errors import InputFileError, one_line
from resnet_jax.runtime.untrusted import printable

logger = logging.getLogger(__name__)
ATTEMPTS = 5
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 6.0
SLOW = 400_000  # bytes per second; a server below it for TIMEOUT_SECONDS is left while there are others
LEAST = 1000  # bytes per second, below which a connection counts as interrupted
_CHUNK = 1 << 18
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # ValueError: of an address that a server sends us to


class _SlowError(Exception):
    """A server sends less than SLOW."""

    def __init__(self, rate: float):
        super().__init__(f'{rate / 1000:,.0f} kB/s')
        self.rate = rate


class _UnusableError(Exception):
    """A server does not have the file; there is no use in asking it again."""


def no_data_error(source: Source, root: Path, reason: str) -> InputFileError:
    """Returns an error that says in one line how to get the data."""
    archives = ' or '.join(copy.files[0].name for copy in source.copies if copy.form != 'parquet')
    return InputFileError(
        f"no data set '{source.name}' in {root}, and it cannot be downloaded ({reason}): "
        f'expected one of three: (1) a network: run the same command again; (2) {archives} from elsewhere: '
        'data_archive=FILE; (3) a folder prepared by tfds: data_dir=DIR or TFDS_DATA_DIR=DIR. '
        'Without any data: the config quickstart, or dataset=synthetic_cifar10'
    )


def require_reachable(source: Source, root: Path) -> None:
    """Checks that one of the servers answers, with any status. All are asked at the same time.

    Raises:
        InputFileError: none answers within TIMEOUT_SECONDS.
    """
    urls = {_host(url): _of_endpoint(url) for copy in source.copies for file in copy.files for url in file.urls}
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def ask(url: str) -> None:
        reason = None
        try:
            _open(url).close()
        except urllib.error.HTTPError as error:  # an answer; the download reports what is wrong
            error.close()
        except _NETWORK_ERRORS as error:
            reason = _reason(error)
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

    The servers are tried in order. One that is dead or slow is left for the next, which goes on with the same partial file if
    it has the same file. If all are slow, the fastest goes on.

    Returns:
        The copy, and where it is: its file, or the folder of its files.

    Raises:
        InputFileError: no server can be reached and sends a whole file of the right hash.
        ResourceError: a file cannot be written.
    """
    servers = _Servers()
    for attempt in range(ATTEMPTS):
        if attempt and not servers.rates:
            logger.warning('download of %s interrupted (%s); trying again', source.name, _join(servers.reasons))
            time.sleep(BACKOFF_SECONDS * attempt)
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
    """Deletes what was begun of other copies."""
    for where in (folder, folder / f'{source.name}-parquet'):
        for file in (file for copy in source.copies for file in copy.files):
            (where / f'{file.name}.part').unlink(missing_ok=True)


class _Servers:
    """What is known about the servers, by address.

    Attributes:
        rates: bytes per second of those that were left for being slow.
        reasons: why the last attempt failed.
        patient: whether slow ones may go on, for all others have been tried.
    """

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        self.patient = False
        self._failed: Counter[str] = Counter()

    def rate(self, urls: Iterable[str]) -> float:
        return max(self.rates.get(url, 0.0) for url in urls)

    def left(self, urls: Iterable[str]) -> bool:
        """Returns whether there is use in asking one of these again."""
        return any(self._failed[url] < ATTEMPTS for url in urls)

    def fetch(self, file: File, path: Path) -> bool:
        """Brings a file to `path`, from one server after the other; returns whether one had it."""
        if path.exists() and _digest(path) == file.sha256:
            return True
        part = path.with_name(f'{path.name}.part')
        for url in sorted(file.urls, key=lambda url: -self.rates.get(url, 0.0)):
            while self._failed[url] < ATTEMPTS:
                before = part.stat().st_size if part.is_file() else 0
                try:
                    if before < file.size:
                        _fetch(file, _of_endpoint(url), part, before, self.patient)
                    if (digest := _digest(part)) == file.sha256:
                        part.replace(path)
                        return True
                    part.unlink()
                    if not before:
                        raise _UnusableError(f'a file with SHA-256 {digest}: expected {file.sha256}')
                    self._note(url, f'the file resumed at byte {before} has SHA-256 {digest}: expected {file.sha256}')
                except _SlowError as error:
                    self.rates[url] = error.rate
                    self.reasons[url] = str(error)
                    logger.warning('%s sends %s: trying another server', _host(url), error)
                    break
                except _UnusableError as error:
                    self._failed[url] = ATTEMPTS
                    self.reasons[url] = str(error)
                except urllib.error.HTTPError as error:
                    error.close()
                    self._note(url, _reason(error))
                    if error.code == 416:  # the partial file is not a prefix of the server's file
                        part.unlink(missing_ok=True)
                    elif 400 <= error.code < 500 and error.code not in (408, 429):
                        self._failed[url] = ATTEMPTS
                    break
                except _NETWORK_ERRORS as error:
                    self._note(url, _reason(error))
                    if (part.stat().st_size if part.exists() else 0) <= before:
                        break  # nothing came
                    logger.warning('download of %s interrupted (%s); trying again', url, self.reasons[url])
                    time.sleep(BACKOFF_SECONDS)
        return False

    def _note(self, url: str, reason: str) -> None:
        self._failed[url] += 1
        self.reasons[url] = reason + (f'; {ATTEMPTS} attempts' if self._failed[url] == ATTEMPTS else '')


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _fetch(file: File, url: str, part: Path, offset: int, patient: bool) -> None:
    """Completes `part`, from `offset` if the server supports it; raises one of _NETWORK_ERRORS if interrupted."""
    with _open(url, offset) as response:
        resumed = response.status == 206 and response.headers.get('Content-Range', '').startswith(f'bytes {offset}-')
        done = offset if resumed else 0
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)  # the next attempt asks for all of it
            raise ConnectionError('the server sent another part than the one that it was asked for')
        length = response.length  # None where the server does not say it, or not as a number
        if length is not None and done + length != file.size:
            raise _UnusableError(
                f'{done + length} bytes of {printable(response.headers.get_content_type())[:80]}: '
                f'expected an archive of {file.size} bytes; check the proxy'
            )
        with writing(part):
            opened = part.open('ab' if resumed else 'wb')
        with opened, progress(f'Downloading {file.name} from {_host(url)}', file.size, 'MB', done) as advance:
            begun, counted = time.monotonic(), done
            while done < file.size and (chunk := response.read1(min(_CHUNK, file.size - done))):
                with writing(part):
                    opened.write(chunk)
                    opened.flush()
                done += len(chunk)
                advance(len(chunk))
                seconds = time.monotonic() - begun
                if seconds > TIMEOUT_SECONDS:  # a byte now and then keeps the socket's from coming
                    rate = (done - counted) / seconds
                    if rate < LEAST:
                        raise TimeoutError(f'less than {LEAST} bytes a second')
                    if rate < SLOW and not patient and (file.size - done) / rate > TIMEOUT_SECONDS:
                        raise _SlowError(rate)
                    begun, counted = time.monotonic(), done
    if done < file.size:
        raise ConnectionError(f'the connection closed after {done} of {file.size} bytes')


def _open(url: str, offset: int = 0) -> http.client.HTTPResponse:
    """Opens the URL from byte `offset` on; raises one of _NETWORK_ERRORS."""
    headers = {'User-Agent': 'resnet_jax', **({'Range': f'bytes={offset}-'} if offset else {})}
    request = urllib.request.Request(url, headers=headers)
    answer: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answer.put(urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            answer.put(error)

    # urlopen's timeout applies to each address but not to the name lookup, which can take half a minute by itself.
    threading.Thread(target=connect, daemon=True).start()
    try:
        result = answer.get(timeout=TIMEOUT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f'no answer in {TIMEOUT_SECONDS:g} s') from None
    if isinstance(result, Exception):
        raise result
    return result


def _of_endpoint(url: str) -> str:
    """Returns the address at HF_ENDPOINT of a file on the Hugging Face hub."""
    hub, endpoint = 'https://huggingface.co/', os.environ.get('HF_ENDPOINT')
    return f'{endpoint.rstrip("/")}/{url.removeprefix(hub)}' if endpoint and url.startswith(hub) else url


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answered {error.code} {printable(one_line(error.reason))[:80]}'
    return printable(one_line(getattr(error, 'reason', None) or error))[:200]


def _join(reasons: dict[str, str]) -> str:
    """Returns the reasons, each with the servers that it applies to."""
    hosts: dict[str, list[str]] = {}
    for url, reason in reasons.items():
        hosts.setdefault(reason, []).append(_host(url))
    return '; '.join(f'{", ".join(dict.fromkeys(names))}: {reason}' for reason, names in hosts.items())
