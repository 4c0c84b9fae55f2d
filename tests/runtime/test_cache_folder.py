import os
import stat
import tempfile
from pathlib import Path

import pytest

from resnet_jax.runtime.cache_folder import NotPrivateError, cache_dir, check_private, private_folder


@pytest.mark.parametrize(
    ('own', 'xdg', 'expected'),
    [('/own', '/xdg', '/own'), ('', '/xdg', '/xdg/resnet_jax'), (None, '', '/home/me/.cache/resnet_jax')],
)
def test_the_nearest_variable_names_it(monkeypatch, own, xdg, expected):
    for name, value in {'RESNET_JAX_CACHE_DIR': own, 'XDG_CACHE_HOME': xdg, 'HOME': '/home/me'}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    (tmp_path / 'tmp').mkdir()
    return tmp_path / 'cache'


@pytest.mark.parametrize('umask', [0, 0o002, 0o022, 0o077])
def test_our_folders_are_private_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        assert private_folder('kernels') == private_folder('kernels') == cache / 'kernels'
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache, cache / 'kernels')} == {0o700}


@pytest.mark.parametrize('kind', ['writable', 'writable below', 'link', 'foreign'])
def test_a_folder_that_others_could_have_written_is_not_used(cache, kind, tmp_path, capsys, monkeypatch):
    private_folder('kernels')
    if kind == 'foreign':
        if os.getuid() == 0:
            os.chown(cache, 12345, 12345)
        else:
            monkeypatch.setattr(os, 'getuid', lambda: 12345)
    elif kind == 'link':
        cache.rename(tmp_path / 'elsewhere')
        cache.symlink_to(tmp_path / 'elsewhere')
    else:
        (cache / 'kernels' if 'below' in kind else cache).chmod(0o775)
    if kind == 'foreign' and os.getuid() == 12345:
        with pytest.raises(OSError):
            private_folder('kernels')
        return
    instead = private_folder('kernels')
    assert instead == tmp_path / 'tmp' / f'resnet_jax-{os.getuid()}' / 'kernels'
    assert stat.S_IMODE(instead.stat().st_mode) == 0o700
    assert f'warning: {cache}' in capsys.readouterr().err


def test_a_file_that_others_could_have_written_is_named(tmp_path):
    path = tmp_path / 'a.so'
    path.touch(mode=0o600)
    check_private(path)
    path.chmod(0o620)
    with pytest.raises(NotPrivateError, match='others can write it'):
        check_private(path)
    with pytest.raises(FileNotFoundError):
        check_private(tmp_path / 'none')
