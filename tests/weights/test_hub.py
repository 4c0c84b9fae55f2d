"""Published weights from a hub on this machine, over plain HTTP and with huggingface_hub."""

import dataclasses
import errno
import hashlib
import importlib.util
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, InputFileError, ResourceError
from resnet_jax.runtime import download
from resnet_jax.weights import hub as hub_module
from resnet_jax.weights.hub import fetch, fetch_repository
from resnet_jax.weights.published import PUBLISHED

DIGITS = PUBLISHED['resnet_jax/resnet8.digits']
BODY = fetch(DIGITS).read_bytes()
REPOSITORY = 'someone/digits'
WEIGHTS = dataclasses.replace(DIGITS, name='timm/small', url=f'hf://{REPOSITORY}/model.safetensors')


@pytest.fixture(params=['https', 'huggingface_hub'])
def hub(request, monkeypatch, tmp_path):
    if request.param == 'huggingface_hub':
        constants = pytest.importorskip('huggingface_hub.constants')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hf'))
    monkeypatch.setattr(hub_module, '_has_huggingface_hub', lambda: request.param == 'huggingface_hub')
    monkeypatch.setattr(download, 'BACKOFF_SECONDS', 0)
    server = Hub(**{REPOSITORY: BODY})
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('HF_ENDPOINT', server.url + '/')
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    yield server
    server.close()


@pytest.fixture
def plain(hub, request):
    if request.node.callspec.params['hub'] != 'https':
        pytest.skip('huggingface_hub does this by itself')
    return hub


def files(folder):
    return sorted(path.name for path in folder.rglob('*') if path.is_file() and path.suffix != '.lock')


def test_the_first_start_downloads_and_later_ones_ask_nobody(hub, monkeypatch, capsys):
    path = fetch(WEIGHTS)
    assert path.read_bytes() == BODY and f'GET /content/{REPOSITORY}' in hub.requests
    assert f'HEAD /{REPOSITORY}/resolve/main/model.safetensors' in hub.requests
    hub.requests.clear()
    assert fetch(WEIGHTS) == path and not hub.requests
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert fetch(WEIGHTS) == path and fetch(dataclasses.replace(WEIGHTS, sha256='')) == path and not hub.requests


def test_offline_without_a_copy_is_an_error_without_a_request(hub, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', 'yes')
    for attempt in (lambda: fetch(WEIGHTS), lambda: fetch_repository(f'hf://{REPOSITORY}')):
        with pytest.raises(
            InputFileError, match=r'is not in the cache.*HF_HUB_OFFLINE is set.*from elsewhere as .*safetensors$'
        ):
            attempt()
    assert not hub.requests


def test_another_file_than_the_published_one_is_refused(hub):
    hub.files[REPOSITORY] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    digest = hashlib.sha256(hub.files[REPOSITORY]).hexdigest()
    with pytest.raises(InputFileError, match=f'SHA-256 {digest}.*expected {WEIGHTS.sha256}'):
        fetch(WEIGHTS)
    with pytest.raises(InputFileError, match='expected ' + WEIGHTS.sha256[:8]):
        fetch(dataclasses.replace(WEIGHTS, sha256=WEIGHTS.sha256[:8]))


def test_a_file_that_is_changed_on_the_way_is_refused(plain, tmp_path):
    """The hub states the hash of its file, also where the table has none."""
    plain.sent = BODY[:-1] + b'x'
    with pytest.raises(InputFileError, match=f'sent a file with SHA-256 .*expected {WEIGHTS.sha256}'):
        fetch(dataclasses.replace(WEIGHTS, sha256=''))
    plain.sent = b'<html>please log in</html>'
    with pytest.raises(InputFileError, match=rf'sent 26 bytes of text/plain: expected weights of {len(BODY)} bytes'):
        fetch(WEIGHTS)
    assert files(tmp_path / 'cache') == []


def test_a_damaged_copy_is_set_aside_and_replaced(plain, caplog, tmp_path):
    for weights in (WEIGHTS, dataclasses.replace(WEIGHTS, sha256='')):
        path = fetch(weights)
        path.write_bytes(BODY[:-1])
        assert fetch(weights).read_bytes() == BODY
        assert 'renamed to model.safetensors.damaged' in caplog.text
        caplog.clear()
    assert files(tmp_path / 'cache') == ['model.safetensors', 'model.safetensors.damaged', 'model.safetensors.json']


def test_a_file_put_there_by_hand_is_used(plain, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(InputFileError) as error:
        fetch(WEIGHTS)
    path = Path(str(error.value).rpartition(' as ')[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert fetch(WEIGHTS) == path and not plain.requests


def test_huggingface_hub_is_given_up_when_almost_nothing_comes(monkeypatch, tmp_path):
    huggingface_hub, errors = (pytest.importorskip(name) for name in ('huggingface_hub', 'huggingface_hub.errors'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(hub_module, '_PATIENCE_SECONDS', 0.2)
    path, end = tmp_path / 'models--someone--digits' / 'blobs' / '1.incomplete', threading.Event()
    path.parent.mkdir(parents=True)

    def comes(*args, local_files_only, **kwargs):
        if local_files_only:
            raise errors.LocalEntryNotFoundError('not here')
        for _ in range(40):  # in more than one window of 0.2 s
            with path.open('ab') as file:
                file.write(bytes(10_000))
            end.wait(0.01)
        return path

    def drips(*args, local_files_only, **kwargs):
        if local_files_only:
            raise errors.LocalEntryNotFoundError('not here')
        end.wait()

    weights = dataclasses.replace(WEIGHTS, sha256='')
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', comes)
    assert fetch(weights) == path
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', drips)
    with pytest.raises(InputFileError, match='the server sends less than 1000 bytes a second'):
        fetch(weights)
    end.set()


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(InputFileError, match=r'hf://someone/else is not in the cache.*404'):
        fetch_repository('hf://someone/else')
    with pytest.raises(InputFileError, match='404'):
        fetch(dataclasses.replace(WEIGHTS, url=f'hf://{REPOSITORY}/other.safetensors'))


def test_a_repository_gets_newer(hub):
    name = f'hf://{REPOSITORY}'
    assert fetch_repository(name).read_bytes() == BODY
    hub.requests.clear()
    assert fetch_repository(name).read_bytes() == BODY
    assert all(request.startswith('HEAD') for request in hub.requests)
    hub.files[REPOSITORY], hub.commit = BODY + b' ', '2' * 40
    assert fetch_repository(name).read_bytes() == BODY + b' '


def test_a_repository_that_cannot_be_reached_any_more(hub, monkeypatch):
    path = fetch_repository(f'hf://{REPOSITORY}')
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    assert fetch_repository(f'hf://{REPOSITORY}') == path


def test_a_renamed_repository(hub):
    hub.renamed['old/name'] = REPOSITORY
    assert fetch_repository('hf://old/name').read_bytes() == BODY


def test_a_revision(hub):
    fetch_repository(f'hf://{REPOSITORY}@refs/pr/1')
    assert hub.requests[0].startswith(f'HEAD /{REPOSITORY}/resolve/refs%2Fpr%2F1/')


@pytest.mark.parametrize('name', ['hf://', 'hf://one', 'hf://a/b/c', 'hf://../b', 'hf://a/..', 'hf://a/b@../c', 'hf://a b/c'])
def test_a_name_that_is_no_repository(name):
    with pytest.raises(ConfigError, match='expected hf://OWNER/REPOSITORY'):
        fetch_repository(name)


def test_a_full_disk(hub, monkeypatch, tmp_path):
    """Every write to a file of the cache fails, as on a full disk."""
    opened = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, 'No space left on device')

    def full(path, mode='r', *arguments, **options):
        file = opened(path, mode, *arguments, **options)
        return Full(file) if mode in ('wb', 'ab') and tmp_path in path.parents else file

    monkeypatch.setattr(Path, 'open', full)
    with pytest.raises(ResourceError, match=r'cannot write .*No space left on device.*free space, or set (RESNET_JAX|HF_HOME)'):
        fetch(WEIGHTS)
    monkeypatch.undo()


def test_a_cache_that_cannot_be_made(plain, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(ResourceError, match=r'cannot write .*set RESNET_JAX_CACHE_DIR'):
        fetch(WEIGHTS)


def test_weights_from_another_server(plain, monkeypatch):
    """As those of torchvision: the address says the first digits of the hash, and nobody states the size."""
    weights = dataclasses.replace(WEIGHTS, url=f'{plain.url}/content/{REPOSITORY}', sha256=WEIGHTS.sha256[:8])
    path = fetch(weights)
    assert path.name == 'digits' and path.read_bytes() == BODY
    with pytest.raises(InputFileError, match=r'sent a file with SHA-256 .*: expected 00000000'):
        fetch(dataclasses.replace(weights, name='a/b', sha256='00000000'))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert fetch(weights) == path
    with pytest.raises(InputFileError, match='HF_HUB_OFFLINE is set'):
        fetch(dataclasses.replace(weights, name='a/c'))


def test_a_server_that_does_not_answer_is_asked_once(plain, caplog):
    weights = dataclasses.replace(WEIGHTS, url='http://127.0.0.1:9/weights.pth', sha256='')
    with pytest.raises(InputFileError, match=r'cannot be downloaded .*refused'):
        fetch(weights)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_classifier_of_a_repository(hub):
    classifier = Classifier.load(f'hf://{REPOSITORY}')
    ours = Classifier.load('resnet_jax/resnet8.digits')
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(classifier.logits(images), ours.logits(images))
    assert classifier.class_names == ours.class_names == tuple('0123456789')
    assert classifier.mean == ours.mean and classifier.origin.path == f'hf://{REPOSITORY}'


def test_huggingface_hub_is_found_if_it_is_installed():
    assert hub_module._has_huggingface_hub() == (importlib.util.find_spec('huggingface_hub') is not None)
