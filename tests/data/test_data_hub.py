"""`parquet:hf://datasets/OWNER/NAME` through huggingface_hub, from a local server that answers as the hub does."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cifar_copies import png, write_table

from resnet_jax.data import load_dataset
from resnet_jax.data.hub import fetch_tables
from resnet_jax.errors import ConfigError

COMMIT = '0123456789abcdef0123456789abcdef01234567'


class Hub:
    """Has the files of a folder as the data set owner/flowers."""

    def __init__(self, folder):
        self.folder, self.requests = folder, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        self.requests.append(f'{request.command} {request.path}')
        files = sorted(path for path in self.folder.rglob('*') if path.is_file())
        names = [str(path.relative_to(self.folder)) for path in files]
        headers, body = {}, b''
        if re.fullmatch(f'/api/datasets/owner/flowers/revision/(main|v2|{COMMIT})', request.path):
            siblings = [{'rfilename': name} for name in names]
            body = json.dumps({'id': 'owner/flowers', 'sha': COMMIT, 'siblings': siblings}).encode()
        elif request.path.startswith(f'/api/datasets/owner/flowers/tree/{COMMIT}'):  # later versions of huggingface_hub
            sizes = [path.stat().st_size for path in files]
            tree = [
                {'type': 'file', 'path': name, 'size': size, 'oid': COMMIT} for name, size in zip(names, sizes, strict=True)
            ]
            body = json.dumps(tree).encode()
        elif (match := re.fullmatch(f'/datasets/owner/flowers/resolve/{COMMIT}/(.*)', request.path)) and match[1] in names:
            body = (self.folder / match[1]).read_bytes()
            headers = {'ETag': f'"{len(body)}-{names.index(match[1])}"', 'X-Repo-Commit': COMMIT}
        else:
            return request.send_error(404)
        request.send_response(200)
        for name, value in {**headers, 'Content-Length': str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == 'GET':
            request.wfile.write(body)


def _load(address, hub, tmp_path, **environment):
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    code = f'from resnet_jax.data import load_dataset; print(load_dataset({address!r}).fingerprint)'
    ours = {name: value for name, value in os.environ.items() if not name.startswith(('HF_', 'HUGGING'))}
    return subprocess.run(
        [sys.executable, '-c', code],
        env=ours | {'HF_ENDPOINT': hub.url, 'HF_HOME': str(tmp_path / 'hf')} | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def hub(tmp_path):
    rng = np.random.default_rng(0)
    for part, size in (('train', 8), ('test', 4)):
        image = [{'bytes': png(rng.integers(0, 256, (6, 6, 3), np.uint8)), 'path': None} for _ in range(size)]
        (tmp_path / 'flowers' / 'data').mkdir(parents=True, exist_ok=True)
        write_table(tmp_path / 'flowers' / 'data' / f'{part}-0.parquet', {'image': image, 'label': [0, 1] * (size // 2)})
    (tmp_path / 'flowers' / 'README.md').write_text('flowers')
    hub = Hub(tmp_path / 'flowers')
    yield hub
    hub.http.shutdown()
    hub.http.server_close()


def test_a_set_by_name(hub, tmp_path):
    pytest.importorskip('huggingface_hub')
    expected = load_dataset(f'parquet:{tmp_path / "flowers"}').fingerprint
    first = _load('parquet:hf://datasets/owner/flowers', hub, tmp_path)
    assert first.stdout.strip() == expected, first.stderr
    assert not any('README' in request for request in hub.requests)
    hub.http.shutdown()
    hub.http.server_close()
    again = _load('parquet:hf://datasets/owner/flowers', hub, tmp_path, HF_HUB_OFFLINE='1')
    assert again.stdout.strip() == expected, again.stderr
    missing = _load('parquet:hf://datasets/owner/roses@v2/data', hub, tmp_path, HF_HUB_OFFLINE='1')
    assert f'cannot get hf://datasets/owner/roses@v2/data from {hub.url} (' in missing.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    'address', ['hf://', 'hf://owner/name', 'hf://datasets/owner', 'hf://datasets/a/../b', 'hf://datasets/a/b@']
)
def test_an_address_that_is_none(address):
    with pytest.raises(ConfigError, match=r'is not an address: expected parquet:hf://datasets/OWNER/NAME'):
        fetch_tables(address)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ConfigError, match=r"huggingface_hub, .*, is missing: pip install 'resnet_jax\[hub\]'"):
        fetch_tables('hf://datasets/owner/name')


@pytest.mark.parametrize(
    'address, expected',
    [
        ('hf://datasets/a/b', ('a/b', None, '*.parquet', '')),
        ('hf://datasets/a/b/plain/train-0.parquet', ('a/b', None, 'plain/train-0.parquet', 'plain/train-0.parquet')),
        ('hf://datasets/a/b@v1.0/plain', ('a/b', 'v1.0', 'plain/*.parquet', 'plain')),
        ('hf://datasets/a/b@refs/convert/parquet/x', ('a/b', 'refs/convert/parquet', 'x/*.parquet', 'x')),
    ],
)
def test_what_is_asked_for(address, expected, monkeypatch):
    asked = []

    class Module:
        @staticmethod
        def snapshot_download(name, repo_type, revision, allow_patterns):
            asked.append((name, revision, *allow_patterns))
            return '/cache'

    monkeypatch.setitem(sys.modules, 'huggingface_hub', Module)
    assert fetch_tables(address) == Path('/cache') / expected[3] and asked == [expected[:3]]
