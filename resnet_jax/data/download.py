"""Downloads an official archive: resumes, retries, verifies, and never leaves a partial file in its place."""

import hashlib
import http.client
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from resnet_jax.data.messages import writing
from resnet_jax.data.progress import progress
from resnet_jax.data.sources import Source
from resnet_jax.errors import InputFileError, one_line

logger = logging.getLogger(__name__)
ATTEMPTS = 5
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 6.0
_CHUNK = 1 << 18
_LEAST = 1000  # bytes per second, below which a connection counts as interrupted
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # ValueError: of an address that a server sends us to


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
        InputFileError: it does not answer within TIMEOUT_SECONDS.
    """
    try:
        _open(source.url).close()
    except urllib.error.HTTPError as error:  # an answer; the download reports what is wrong
        error.close()
    except _NETWORK_ERRORS as error:
        raise no_data_error(source, root, _reason(error)) from error


def download(source: Source, root: Path, path: Path) -> None:
    """Downloads the archive to `path` via `<path>.part`, from which a later attempt or command resumes.

    Raises:
        InputFileError: the server cannot be reached, or does not send the official archive.
        ResourceError: the file cannot be written.
    """
    part = path.with_name(f'{path.name}.part')
    reason: object = None
    for attempt in range(ATTEMPTS):
        if attempt:
            logger.warning('download of %s interrupted (%s); trying again', source.url, reason)
            time.sleep(BACKOFF_SECONDS * attempt)
        offset = part.stat().st_size if part.exists() else 0
        try:
            if offset < source.size:
                _fetch(source, part, offset)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the partial file is not a prefix of the server's file
                part.unlink(missing_ok=True)
            elif 400 <= error.code < 500 and error.code not in (408, 429):
                raise no_data_error(source, root, _reason(error)) from error
            reason = _reason(error)
        except _NETWORK_ERRORS as error:
            reason = _reason(error)
        else:
            with part.open('rb') as file:
                digest = hashlib.file_digest(file, 'sha256').hexdigest()
            if digest == source.sha256:
                part.replace(path)
                return
            part.unlink()
            if not offset:
                raise InputFileError(
                    f'{source.url} sent a file with SHA-256 {digest}: expected {source.sha256}; '
                    'try later or pass the official archive with data_archive=FILE'
                )
            reason = f'the file resumed at byte {offset} has SHA-256 {digest}, expected {source.sha256}'
    raise no_data_error(source, root, f'{reason}; {ATTEMPTS} attempts')


def _fetch(source: Source, part: Path, offset: int) -> None:
    """Completes `part`, from `offset` if the server supports it; raises one of _NETWORK_ERRORS if interrupted."""
    with _open(source.url, offset) as response:
        resumed = response.status == 206 and response.headers.get('Content-Range', '').startswith(f'bytes {offset}-')
        done = offset if resumed else 0
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)  # the next attempt asks for all of it
            raise ConnectionError('the server sent another part than the one that it was asked for')
        length = response.length  # None where the server does not say it, or not as a number
        if length is not None and done + length != source.size:
            raise InputFileError(
                f'{source.url} sent {done + length} bytes of {response.headers.get_content_type()}: '
                f'expected an archive of {source.size} bytes; '
                'check the proxy or pass the archive with data_archive=FILE'
            )
        with writing(part):
            file = part.open('ab' if resumed else 'wb')
        with file, progress(f'Downloading {source.archive_name}', source.size, 'MB') as advance:
            advance(done)
            begun, counted = time.monotonic(), done
            while done < source.size and (chunk := response.read1(min(_CHUNK, source.size - done))):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                done += len(chunk)
                advance(len(chunk))
                if (
                    seconds := time.monotonic() - begun
                ) > TIMEOUT_SECONDS:  # a byte now and then keeps the socket's from coming
                    if done - counted < _LEAST * seconds:
                        raise TimeoutError(f'less than {_LEAST} bytes a second')
                    begun, counted = time.monotonic(), done
    if done < source.size:
        raise ConnectionError(f'the connection closed after {done} of {source.size} bytes')


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


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answered {error.code} {one_line(error.reason)}'
    return one_line(getattr(error, 'reason', None) or error)
