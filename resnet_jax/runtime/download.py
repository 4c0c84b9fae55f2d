"""Downloads a file: resumes, retries and verifies; a partial file is never at the final path."""

import contextlib
import http.client
import logging
import os
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

from resnet_jax.errors import one_line
from resnet_jax.runtime.files import sha256_of
from resnet_jax.runtime.progress import progress
from resnet_jax.runtime.untrusted import check_regular, printable

logger = logging.getLogger(__name__)
ATTEMPTS = 5
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 6.0
_CHUNK = 1 << 18
LEAST = 1000  # bytes per second; a slower connection counts as interrupted
NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # ValueError: a server redirects to an invalid address
Writing = Callable[[Path], contextlib.AbstractContextManager[None]]


class DownloadError(Exception):
    """The server cannot be reached or does not send the file; the message says why. `status` is the HTTP status, if any."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class WrongFileError(Exception):
    """The server sent another file than expected; the message names both."""


class SlowError(Exception):
    """A server is too slow; `rate` is in bytes per second."""

    def __init__(self, rate: float):
        super().__init__(f'{rate / 1000:,.0f} kB/s')
        self.rate = rate


def download(url: str, path: Path, *, label: str, writing: Writing, size: int | None = None, sha256: str = '') -> str:
    """Downloads to `path` via `<path>.part`, from which a later attempt or process resumes; returns the file's SHA-256.

    Args:
      label: the kind of file, for messages, such as 'an archive'.
      writing: a context for writing a path; turns an OSError into the caller's error.
      size: size in bytes, if known.
      sha256: hexadecimal digits, all 64 or the first ones; '' if unknown.

    Raises:
      DownloadError: the file cannot be downloaded, after up to ATTEMPTS attempts.
      WrongFileError: the file has another size or hash.
    """
    part = path.with_name(f'{path.name}.part')
    reason: object = None
    for attempt in range(ATTEMPTS):
        if attempt:
            logger.warning('download of %s interrupted (%s); trying again', url, reason)
            time.sleep(BACKOFF_SECONDS * attempt)
        offset = part.stat().st_size if part.exists() else 0
        try:
            if size is None or offset < size or not part.exists():
                fetch(url, part, offset, label=label, writing=writing, size=size)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the partial file is not a prefix of the server's file
                part.unlink(missing_ok=True)
            elif 400 <= error.code < 500 and error.code not in (408, 429):
                raise DownloadError(reason_of(error), error.code) from error
            reason = reason_of(error)
        except NETWORK_ERRORS as error:
            reason = reason_of(error)
        else:
            digest = sha256_of(part)
            if digest.startswith(sha256):
                with writing(path):
                    part.replace(path)
                return digest
            part.unlink()
            if not offset:
                raise WrongFileError(f'a file with SHA-256 {digest}: expected {sha256}')
            reason = f'the file resumed at byte {offset} has SHA-256 {digest}, expected {sha256}'
    raise DownloadError(f'{reason}; {ATTEMPTS} attempts')


def fetch(
    url: str,
    part: Path,
    offset: int,
    *,
    label: str,
    writing: Writing,
    size: int | None = None,
    title: str = '',
    slow: float = 0.0,
) -> None:
    """Completes `part`, from `offset` if the server supports it.

    Args:
      label, writing, size: see `download`.
      title: text of the progress bar; by default the name of the file.
      slow: bytes per second.

    Raises:
      SlowError: the rate over TIMEOUT_SECONDS was below `slow`, and the rest would take longer than TIMEOUT_SECONDS.
      WrongFileError: the file has another size.
      Exception: one of NETWORK_ERRORS: the download was interrupted; `part` has the data so far.
    """
    with open_url(url, offset) as response:
        resumed = response.status == 206 and response.headers.get('Content-Range', '').startswith(f'bytes {offset}-')
        done = offset if resumed else 0
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)  # the next attempt requests the whole file
            raise ConnectionError('the server sent another part than the one that it was asked for')
        length = response.length  # None if the server does not state a number
        if length is not None and size not in (None, done + length):
            kind = printable(response.headers.get_content_type())[:80]
            raise WrongFileError(f'{done + length} bytes of {kind}: expected {label} of {size} bytes; check the proxy')
        total = size if size is not None else done + length if length is not None else None
        with writing(part):
            if part.exists():
                check_regular(part)  # opening a pipe would wait for a reader
            file = part.open('ab' if resumed else 'wb')
        bar = progress(title or f'Downloading {url.rsplit("/", 1)[-1]}', total, 'MB', done)
        with file, bar as advance, contextlib.ExitStack() as watched:
            begun, counted = time.monotonic(), done
            hung_up = watched.enter_context(_hanging_up_when_idle(response, lambda: done))
            while (total is None or done < total) and (
                chunk := response.read1(_CHUNK if total is None else min(_CHUNK, total - done))
            ):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                done += len(chunk)
                advance(len(chunk))
                seconds = time.monotonic() - begun
                if seconds > TIMEOUT_SECONDS:  # single bytes prevent the socket's timeout
                    rate = (done - counted) / seconds
                    if rate < LEAST:
                        raise TimeoutError(f'less than {LEAST} bytes a second')
                    if rate < slow and total is not None and (total - done) / rate > TIMEOUT_SECONDS:
                        raise SlowError(rate)
                    begun, counted = time.monotonic(), done
    if hung_up.is_set():
        raise TimeoutError(f'less than {LEAST} bytes a second')
    if total is not None and done < total:
        raise ConnectionError(f'the connection closed after {done} of {total} bytes')


@contextlib.contextmanager
def _hanging_up_when_idle(response: http.client.HTTPResponse, done: Callable[[], int]) -> Iterator[threading.Event]:
    """Ends the connection if `done` grows by less than LEAST bytes a second; yields an event that is then set.

    A timeout of the socket is not enough: a server may send the length of a chunk digit by digit, and a read waits for it.
    """
    hung_up, finished = threading.Event(), threading.Event()

    def watch() -> None:
        counted = done()
        while not finished.wait(TIMEOUT_SECONDS):
            if done() - counted < LEAST * TIMEOUT_SECONDS:
                hung_up.set()
                # Closing the response would wait for the read. A closed one has no file: AttributeError.
                with (
                    contextlib.suppress(OSError, ValueError, AttributeError),
                    socket.socket(fileno=os.dup(response.fileno())) as connection,
                ):
                    connection.shutdown(socket.SHUT_RDWR)
                return
            counted = done()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield hung_up
    finally:
        finished.set()


def require_reachable(url: str) -> None:
    """Checks that the server answers, with any status.

    Raises:
      DownloadError: the server does not answer within TIMEOUT_SECONDS.
    """
    try:
        headers(url, 'GET')
    except DownloadError as error:
        if error.status is None:
            raise


def headers(url: str, method: str = 'HEAD') -> Message:
    """Returns the headers of the server's answer. Does not follow a redirection of HEAD: its headers describe the file.

    Raises:
      DownloadError: the answer is an error, or there is no answer within TIMEOUT_SECONDS.
    """
    try:
        with open_url(url, method=method) as response:
            return response.headers
    except urllib.error.HTTPError as error:
        error.close()
        if method == 'HEAD' and 300 <= error.code < 400:
            return error.headers
        raise DownloadError(reason_of(error), error.code) from error
    except NETWORK_ERRORS as error:
        raise DownloadError(reason_of(error)) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object, **keywords: object) -> None:
        return None


def open_url(url: str, offset: int = 0, method: str = 'GET') -> http.client.HTTPResponse:
    """Opens the URL from byte `offset` on; raises one of NETWORK_ERRORS."""
    headers = {'User-Agent': 'resnet_jax', **({'Range': f'bytes={offset}-'} if offset else {})}
    request = urllib.request.Request(url, headers=headers, method=method)
    send = urllib.request.urlopen if method == 'GET' else urllib.request.build_opener(_NoRedirect).open
    result: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            result.put(send(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            result.put(error)

    # The timeout applies to each address but not to the name lookup, which alone can take half a minute.
    threading.Thread(target=connect, daemon=True).start()
    try:
        response = result.get(timeout=TIMEOUT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f'no answer in {TIMEOUT_SECONDS:g} s') from None
    if isinstance(response, Exception):
        raise response
    return response


def reason_of(error: Exception) -> str:
    """Returns why a request failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answered {error.code} {printable(one_line(error.reason))[:80]}'
    return printable(one_line(getattr(error, 'reason', None) or error))[:200]
