"""Archives and downloads that are not what they should be: exit 3, the file, what was expected and what was found."""

import hashlib
import http.server
import io
import json
import re
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from commands_support import error_line
from faults_support import run

from resnet_jax.data.sources import CIFAR10

pytestmark = pytest.mark.slow
BINARY = next(copy for copy in CIFAR10.copies if copy.form == 'binary')
TRAIN, TEST = 20, 8


def members():
    """The files of a tiny CIFAR-10 in the official format."""
    rng, files = np.random.default_rng(0), {}
    for files, total in ((CIFAR10.train_files, TRAIN), (CIFAR10.test_files, TEST)):
        for name in files:
            rows = rng.integers(0, 256, (total // len(files), 3073), np.uint8)
            rows[:, 0] %= 10
            files[name] = rows.tobytes()
    return files | {'batches.meta.txt': b'\n'.join(b'class %d' % i for i in range(10))}


def member(name, data=b'', folder=BINARY.folder, **attributes):
    info = tarfile.TarInfo(f'{folder}/{name}' if folder else name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


class Archive:
    def __init__(self, folder):
        self.folder, self.root, self.path = folder, folder / 'data', folder / BINARY.files[0].name
        self.facts = {'num_train': TRAIN, 'num_test': TEST}
        self.write()

    def write(self, files=None, more=()):
        with tarfile.open(self.path, 'w:gz') as tar:
            for name, data in (files or members()).items():
                tar.addfile(*member(name, data))
            for one in more:
                tar.addfile(*one)
        self.fit()

    def fit(self):
        """Takes what is there for official."""
        data = self.path.read_bytes()
        self.facts |= {'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}

    def train(self, code, *flags):
        (self.folder / 'facts.json').write_text(json.dumps(self.facts))
        tiny = ('--config.model=resnet8', '--config.model_kwargs.num_filters=2', '--config.model_kwargs.stage_sizes=1,')
        size = ('--config.batch_size=10', '--config.num_epochs=1', '--config.warmup_epochs=0.0')
        return run(
            'train.py', '--config=configs/default.py', *tiny, *size, f'--config.data_dir={self.root}', *flags,
            f'--workdir={self.folder / "run"}', code=code,
            through=[Path(__file__).parent / 'tiny_cifar.py', self.folder / 'facts.json'],
            RESNET_JAX_CACHE_DIR=str(self.folder / 'cache'), no_proxy='*',
        )  # fmt: skip

    def given(self, code):
        return self.train(code, f'--config.data_archive={self.path}')


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def truncated(a):
    a.path.write_bytes(a.path.read_bytes()[:-1000])


def extra_bytes(a):
    a.path.write_bytes(a.path.read_bytes() + b'x')


def wrong_hash(a):
    data = bytearray(a.path.read_bytes())
    data[500] ^= 1
    a.path.write_bytes(data)


def html(a):
    a.path.write_text('<html>please log in</html>')


def truncated_inside(a):
    truncated(a)
    a.fit()


def html_of_the_right_hash(a):
    html(a)
    a.fit()


def label_255(a):
    files = members()
    files['data_batch_3.bin'] = b'\xff' + files['data_batch_3.bin'][1:]
    a.write(files)


def short_member(a):
    a.write(members() | {'test_batch.bin': b'x' * 100})


def link(a):
    files = members()
    del files['test_batch.bin']
    a.write(files, [member('test_batch.bin', type=tarfile.SYMTYPE, linkname='/etc/passwd')])


def hard_link(a):
    files = members()
    del files['test_batch.bin']
    a.write(files, [member('test_batch.bin', type=tarfile.LNKTYPE, linkname=f'{BINARY.folder}/data_batch_1.bin')])


def gzip_bomb(a):
    class Zeros(io.RawIOBase):
        def read(self, size=-1):
            return bytes(size)

    info, _ = member('bomb.bin')
    info.size = 10**8
    a.write(more=[(info, Zeros())])


def read_error_midway(a):
    a.facts['read_error'] = ['hash', 1000]


def read_error_while_it_is_read(a):
    a.facts['read_error'] = ['tar', 1000]


def path_with_dots(a):
    a.write(more=[member('../../outside', b'x')])


def absolute_path(a):
    a.write(more=[member('/tmp/outside-of-resnet-jax', b'x', folder='')])


def a_folder(a):
    a.path.unlink()
    a.path.mkdir()


FAULTS = {
    truncated: r'has \d+ bytes: expected \d+, the size of cifar-10-binary.tar.gz',
    extra_bytes: r'has \d+ bytes: expected \d+, the size of cifar-10-binary.tar.gz',
    wrong_hash: r'has SHA-256 [0-9a-f]{64}: expected [0-9a-f]{64}',
    html: r'has 26 bytes: expected \d+',
    truncated_inside: 'is damaged: .*; expected cifar-10-binary.tar.gz',
    html_of_the_right_hash: 'is damaged: .*; expected cifar-10-binary.tar.gz',
    label_255: 'data_batch_3.bin: found label 255 in record 0, expected 0 to 9',
    short_member: 'test_batch.bin: found 100 bytes, expected 24584',
    link: 'test_batch.bin: found a link, .*, expected one regular file',
    hard_link: 'test_batch.bin: found a link, .*, expected one regular file',
    path_with_dots: r'\.\./\.\./outside: found a path out of the archive, expected names in cifar-10-batches-bin',
    absolute_path: '/tmp/outside-of-resnet-jax: found a path out of the archive, expected names in cifar-10-batches-bin',
    gzip_bomb: r'bomb.bin: found 100000000 bytes, expected at most \d+',
    read_error_midway: r'cannot read .*Input/output error; expected the file cifar-10-binary.tar.gz',
    read_error_while_it_is_read: r'cannot read .*Input/output error; expected the file cifar-10-binary.tar.gz',
    a_folder: r'bytes: expected \d+',
}


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.__name__)
def test_an_archive_that_is_not_what_it_should_be(fault, archive):
    fault(archive)
    line = error_line(archive.given(3))
    assert re.search(FAULTS[fault], line) and str(archive.path) in line, line
    assert not (archive.root / 'cifar10').exists() and not (archive.folder / 'run' / 'checkpoints').exists()
    assert not list(archive.folder.parent.rglob('outside')) and not Path('/tmp/outside-of-resnet-jax').exists()


@pytest.fixture
def server(archive):
    """Serves the archive, whole or half of it."""
    state = {'share': 1.0, 'body': archive.path.read_bytes(), 'kind': 'application/gzip'}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = state['body']
            self.send_response(200)
            self.send_header('Content-Type', state['kind'])
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body[: int(state['share'] * len(body))])

        def log_message(self, *args):
            pass

    http_server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True).start()
    archive.facts['url'] = f'http://127.0.0.1:{http_server.server_port}/{BINARY.files[0].name}'
    yield state
    http_server.shutdown()
    http_server.server_close()


def test_a_download_cut_at_half(archive, server):
    final = archive.root / 'downloads' / BINARY.files[0].name
    server['share'] = 0.5
    line = error_line(archive.train(3))
    assert 'closed after' in line and '5 attempts' in line and archive.facts['url'].split('/')[2] in line
    assert not final.exists() and not (archive.root / 'cifar10').exists()
    server['share'] = 1.0
    archive.train(0)
    assert final.read_bytes() == server['body']


def test_a_page_instead_of_a_download(archive, server):
    server |= {'body': b'<html>please log in</html>', 'kind': 'text/html'}
    assert 'text/html: expected an archive' in error_line(archive.train(3))
    assert not list((archive.root / 'downloads').glob('*.gz*'))


@pytest.mark.parametrize('damage', ['truncated', 'flipped'])
def test_a_damaged_prepared_folder(damage, archive):
    archive.given(0)
    path = next((archive.root / 'cifar10').rglob('*train.array_record*'))
    data = bytearray(path.read_bytes())
    used = np.flatnonzero(np.frombuffer(data, np.uint8))  # the rest of a file so small is padding
    data[used[len(used) // 2]] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == 'truncated' else data)
    shutil.rmtree(archive.folder / 'run')
    line = error_line(archive.train(3))
    assert str(path) in line
    assert not (archive.folder / 'run' / 'checkpoints').exists()
