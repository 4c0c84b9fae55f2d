"""Downloads published weights over HTTPS or with huggingface_hub, once; afterwards no network is needed.

If huggingface_hub is installed, it downloads the files of the Hugging Face Hub: into its own cache (HF_HOME), which other
programs share, and with its access to private repositories. Otherwise, and for all other servers, files are downloaded over
plain HTTPS into `weights/` of this package's cache folder. This folder does not have huggingface_hub's layout of blobs,
snapshots and links: a second program that writes such a layout could damage the files of others. HF_ENDPOINT names another hub,
and HF_HUB_OFFLINE=1 forbids every request, to any server.

A file whose SHA-256 is not the published one is refused. If none is published, the hash that the hub states, or else the hash
of the first download, is stored with the file and checked at every start.
"""

import contextlib
import importlib.util
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin

from resnet_jax.errors import ConfigError, InputFileError, ResourceError, one_line
from resnet_jax.runtime import download as transfer
from resnet_jax.runtime.cache_folder import cache_dir
from resnet_jax.runtime.files import one_process, sha256_of, write_atomically
from resnet_jax.runtime.untrusted import parse_json, printable, read_text
from resnet_jax.weights.published import PublishedWeights

logger = logging.getLogger(__name__)
FILE = 'model.safetensors'  # the weights in a repository to which a run was exported
_REPOSITORY = re.compile(r'hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.][\w./-]*))?')
_MOST_REDIRECTIONS = 5
_PATIENCE_SECONDS = 60.0  # for huggingface_hub, which retries for some time


class _Place(NamedTuple):
    """A file on a server: the hub's repository, revision and file, or an address."""

    name: str
    url: str
    repository: str = ''
    revision: str = 'main'
    file: str = ''


def fetch(weights: PublishedWeights) -> Path:
    """Returns the path of the file of published weights, from the cache or else from the network.

    Raises:
      InputFileError: the file cannot be downloaded, or its SHA-256 is not the published one.
      ResourceError: the cache cannot be written, for example because the disk is full.
    """
    if weights.url.startswith('package:'):
        return Path(__file__).parent / weights.url.removeprefix('package:')
    place = _Place(weights.name, weights.url)
    if weights.url.startswith('hf://'):
        repository, _, file = weights.url.removeprefix('hf://').rpartition('/')
        place = _hub_place(weights.name, repository, 'main', file)
    return _fetch(place, weights.sha256, fixed=True)


def is_repository(text: str) -> bool:
    """Returns whether a text is the name of a repository on the hub."""
    return text.startswith('hf://')


def fetch_repository(name: str) -> Path:
    """Returns the path of model.safetensors of 'hf://OWNER/REPOSITORY' or 'hf://OWNER/REPOSITORY@REVISION'.

    Downloads a newer file if the hub can be reached and has one.

    Raises:
      ConfigError: the name does not have this form.
      InputFileError, ResourceError: see `fetch`.
    """
    match = _REPOSITORY.fullmatch(name)
    if not match or '..' in name:
        raise ConfigError(
            f'{name!r} is not a repository of the hub; expected hf://OWNER/REPOSITORY or hf://OWNER/REPOSITORY@REVISION'
        )
    return _fetch(_hub_place(name, match[1], match[2] or 'main', FILE), '', fixed=False)


def _hub_place(name: str, repository: str, revision: str, file: str) -> _Place:
    url = f'{_endpoint()}/{repository}/resolve/{quote(revision, safe="")}/{file}'
    return _Place(name, url, repository, revision, file)


def _endpoint() -> str:
    return (os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')


def _offline() -> bool:
    return os.environ.get('HF_HUB_OFFLINE', '').upper() in ('1', 'ON', 'YES', 'TRUE')  # as in huggingface_hub


def _fetch(place: _Place, sha256: str, *, fixed: bool) -> Path:
    """Returns the path of a file in the cache. A `fixed` file never changes: a copy is used without a request.

    Raises:
      InputFileError, ResourceError: see `fetch`.
    """
    folder = place.name.removeprefix('hf://').replace('/', '--')
    path = cache_dir() / 'weights' / folder / (place.file or place.url.rpartition('/')[2])
    if fixed and _is_sound(path, sha256):
        return path
    if place.repository and _has_huggingface_hub():
        file = _with_huggingface_hub(place, path, fixed=fixed)
        if sha256 and not (digest := _sha256(file)).startswith(sha256):
            raise InputFileError(
                f'{file} has SHA-256 {digest}; expected {sha256} for {place.name}: it is damaged or another file; delete it'
            )
        return file
    if _offline():
        if not fixed and _is_sound(path, sha256):
            return path
        raise _cannot_be_had(place, path, 'HF_HUB_OFFLINE is set')
    with contextlib.ExitStack() as lock:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = f'another process downloads {place.name}: waiting for it'
            lock.enter_context(one_process(path.with_name(f'{path.name}.lock'), waiting))
        if not (fixed and _is_sound(path, sha256)):  # another process may have downloaded the file
            _over_https(place, path, sha256)
    return path


def _over_https(place: _Place, path: Path, sha256: str) -> None:
    """Downloads the file into our cache, unless the newest file of the hub is there.

    Raises:
      InputFileError: the file cannot be downloaded, or has another SHA-256.
    """
    size, stated, commit = None, sha256, ''
    try:
        if place.repository:
            hub, size, commit = _describe(place.url)
            if hub and not hub.startswith(sha256):
                raise transfer.WrongFileError(f'a file with SHA-256 {hub}: expected {sha256}')
            stated, recorded = hub or sha256, _recorded(path)
            unchanged = recorded.get('sha256') == hub if hub else bool(commit) and recorded.get('commit') == commit
            if unchanged and _is_sound(path, stated):
                return
        else:
            transfer.require_reachable(place.url)  # one request; the download would retry
        digest = transfer.download(place.url, path, label='weights', writing=_writing, size=size, sha256=stated)
    except transfer.WrongFileError as error:
        raise InputFileError(
            f'{place.url} sent {error}; {place.name} is damaged on the way or not what was published: not used, try later'
        ) from error
    except transfer.DownloadError as error:
        if place.repository and error.status is None and _is_sound(path, sha256):
            logger.warning('%s cannot be reached (%s): the copy in the cache is used', _endpoint(), error)
            return
        hint = ''
        if place.repository and error.status in (401, 403, 404):
            hint = '; check the name: a private repository needs huggingface_hub, pip install huggingface_hub'
        raise _cannot_be_had(place, path, f'{error}{hint}') from error
    with _writing(path):
        write_atomically(_record(path), json.dumps({'url': place.url, 'sha256': digest, 'commit': commit}))


def _describe(url: str) -> tuple[str, int | None, str]:
    """Returns the SHA-256 ('' if the hub does not state it), the size and the commit of a file of the hub.

    Raises:
      DownloadError: see `runtime.download.headers`.
    """
    for _ in range(_MOST_REDIRECTIONS):
        headers = transfer.headers(url)
        location = headers.get('Location', '')
        if not location or 'X-Repo-Commit' in headers:  # then the location is the content's
            break
        url = urljoin(url, location)  # the repository was renamed, or the endpoint is a mirror
    tag = (headers.get('X-Linked-Etag') or headers.get('ETag') or '').removeprefix('W/').strip('"')
    size = headers.get('X-Linked-Size') or ''
    return (
        tag if re.fullmatch('[0-9a-f]{64}', tag) else '',
        int(size) if re.fullmatch('[0-9]{1,15}', size) else None,
        headers.get('X-Repo-Commit') or '',
    )


def _has_huggingface_hub() -> bool:
    return importlib.util.find_spec('huggingface_hub') is not None


def _with_huggingface_hub(place: _Place, path: Path, *, fixed: bool) -> Path:
    """Returns the path of a file in the cache of huggingface_hub; `path` is for the message.

    Raises:
      InputFileError: the file cannot be downloaded.
      ResourceError: the cache cannot be written.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = Path(constants.HF_HUB_CACHE, 'models--' + place.repository.replace('/', '--'))

    def get(*, local: bool) -> Path:  # huggingface_hub may send a request even for a local file
        return _while_it_grows(
            lambda: Path(
                huggingface_hub.hf_hub_download(
                    place.repository, place.file, revision=place.revision, endpoint=_endpoint(), local_files_only=local
                )
            ),
            folder,
        )

    try:
        if fixed or _offline():
            with contextlib.suppress(LocalEntryNotFoundError):
                return get(local=True)
            if _offline():
                raise _cannot_be_had(place, path, 'HF_HUB_OFFLINE is set')
        return get(local=False)
    except InputFileError:
        raise
    except Exception as error:  # errors of huggingface_hub and of its HTTP library have no common base
        if isinstance(error, OSError) and error.errno:
            raise ResourceError(
                f'cannot write the cache of huggingface_hub ({error.strerror}): expected room for {place.name}; free space, or '
                'set HF_HOME to another folder'
            ) from error
        raise _cannot_be_had(place, path, one_line(error)[:300]) from error


def _while_it_grows(get: Callable[[], Path], folder: Path) -> Path:
    """Calls `get`, which downloads into a folder; gives up on a server that keeps the socket open with a few bytes.

    Raises:
      OSError: the server sends less than `runtime.download.LEAST` bytes a second.
    """
    results: list[Path | Exception] = []

    def run() -> None:
        try:
            results.append(get())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, name='huggingface_hub', daemon=True)  # the thread cannot be stopped
    thread.start()
    size = _unfinished_bytes(folder)
    while thread.is_alive():
        thread.join(_PATIENCE_SECONDS)
        before, size = size, _unfinished_bytes(folder)
        if thread.is_alive() and abs(size - before) < transfer.LEAST * _PATIENCE_SECONDS:
            raise OSError(f'the server sends less than {transfer.LEAST} bytes a second')
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _unfinished_bytes(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob('*.incomplete'):
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def _cannot_be_had(place: _Place, path: Path, reason: str) -> InputFileError:
    return InputFileError(
        f'{place.name} is not in the cache, and {printable(place.url)} cannot be downloaded ({reason}); expected a network, or '
        f'the file from elsewhere as {path}'
    )


def _is_sound(path: Path, sha256: str) -> bool:
    """Returns whether a file is in the cache and has the published and the recorded hash; sets it aside if not."""
    if not path.is_file():
        return False
    expected = str(_recorded(path).get('sha256', ''))
    if not (sha256 or expected):  # a user put the file there
        return True
    if (digest := _sha256(path)).startswith(sha256) and digest.startswith(expected):
        return True
    aside = path.with_name(f'{path.name}.damaged')
    logger.warning('%s has SHA-256 %s, expected %s: it is renamed to %s', path, digest, sha256 or expected, aside.name)
    with _writing(path):
        path.replace(aside)
        _record(path).unlink(missing_ok=True)
    return False


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputFileError(f'{path} cannot be read ({error.strerror}); delete it, or allow reading it') from None


def _record(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _recorded(path: Path) -> dict[str, object]:
    """Returns the record of a file's download; {} if there is none or it cannot be read."""
    try:
        value = parse_json(read_text(_record(path)))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an OSError raised while writing `path` into a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f'cannot write {path} ({one_line(error.strerror or error)}): expected a writable cache with room for the weights; '
            'free space, or set RESNET_JAX_CACHE_DIR to another folder'
        ) from error
