"""SHA-256 checksums of a checkpoint's files: written with the checkpoint and verified before it is loaded."""

import hashlib
import time
from pathlib import Path

from resnet_jax.errors import InputFileError, ResourceError
from resnet_jax.runtime import failpoints
from resnet_jax.runtime.files import sha256_of

CHECKSUMS = 'SHA256SUMS'
LARGEST_TEXT = 64 * 2**20  # largest size in bytes of metadata.json and of SHA256SUMS; real files are far smaller
_ATTEMPTS = 3  # number of attempts to read an unreadable file


def _files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob('*') if not p.is_dir() or p.is_symlink())


def checksums_text(path: Path) -> str:
    """Returns the checksums of a folder's files; the last line, a comment for `sha256sum -c`, has the checksum of the lines."""
    lines = ''.join(f'{sha256_of(path / name)}  {name}\n' for name in _files(path) if name != CHECKSUMS)
    return lines + f'# {hashlib.sha256(lines.encode()).hexdigest()}\n'


def verify(path: Path) -> None:
    """Verifies every byte of a checkpoint.

    Raises:
      InputFileError: a file is missing, extra or changed; names the first one.
      ResourceError: a file cannot be read, so its content is unknown.
    """
    for attempt in range(_ATTEMPTS):
        try:
            failpoints.reach('verify')
            return _verify(path)
        except OSError as error:
            reason = f'{error.strerror or error}' + (f' ({error.filename})' if error.filename else '')
            if not path.exists():
                raise InputFileError(f'checkpoint {path} has gone; expected a folder') from None
            if attempt < _ATTEMPTS - 1:
                time.sleep(0.5)
    raise ResourceError(
        f'checkpoint {path} cannot be read: {reason}; nothing was changed: try again, or move it away to use the one before it'
    )


def _verify(path: Path) -> None:
    def damaged(name: str, reason: str) -> InputFileError:
        return InputFileError(f'checkpoint {path} is damaged: {name} {reason}; expected what {CHECKSUMS} lists')

    names = _files(path)
    for name in names:
        if (path / name).is_symlink() or not (path / name).is_file():
            raise damaged(name, 'is not a regular file')
    if CHECKSUMS not in names:
        raise damaged(CHECKSUMS, 'is missing')
    if (path / CHECKSUMS).stat().st_size > LARGEST_TEXT:
        raise damaged(CHECKSUMS, f'has more than {LARGEST_TEXT} bytes')
    text = (path / CHECKSUMS).read_bytes().decode(errors='replace')
    lines, _, _ = text.rpartition('# ')
    if text != lines + f'# {hashlib.sha256(lines.encode()).hexdigest()}\n':
        raise damaged(CHECKSUMS, 'does not match its own checksum')
    expected = {name: digest for digest, _, name in (line.partition('  ') for line in lines.splitlines())}
    for name in sorted({*expected, *names} - {CHECKSUMS}):
        if name not in names:
            raise damaged(name, 'is missing')
        if name not in expected:
            raise damaged(name, 'does not belong to it')
        if sha256_of(path / name) != expected[name]:
            raise damaged(name, 'has changed')
