import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from resnet_jax.runtime import compilation_cache

SCRIPT = """
import os, sys
from resnet_jax.cli import command

FLAGS = command.Flags()

def main(arguments):
    print(os.environ.get('JAX_COMPILATION_CACHE_DIR'), os.environ.get('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'))
    if 'jax' in arguments or 'jax' in sys.modules:
        import jax
        print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)

command.run(sys.modules[__name__], sys.argv[1:], 'test')
"""


def command(*arguments, script=SCRIPT, **environment):
    """What a command prints, line by line, and its standard error; None removes a variable."""
    changes = {'JAX_COMPILATION_CACHE_DIR': None, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': None, **environment}
    env = {name: str(value) for name, value in {**os.environ, **changes}.items() if value is not None}
    done = subprocess.run([sys.executable, '-c', script, *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize('first', ['', 'import jax'], ids=['jax later', 'jax before'])
def test_commands_have_the_cache_on(tmp_path, first):
    out, err = command('jax', script=first + SCRIPT, RESNET_JAX_CACHE_DIR=tmp_path)
    assert (out, err) == ([f'{tmp_path}/compiled 0.1'] * 2, '')
    assert (tmp_path / 'compiled').stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ('own', 'printed'),
    [
        ({'JAX_COMPILATION_CACHE_DIR': '/mine'}, '/mine None'),
        ({'JAX_COMPILATION_CACHE_DIR': ''}, ' None'),
        ({'JAX_ENABLE_COMPILATION_CACHE': '0'}, 'None None'),
        ({'JAX_ENABLE_COMPILATION_CACHE': 'False'}, 'None None'),
    ],
)
def test_the_users_own_folder_and_off_switch_are_respected(tmp_path, own, printed):
    assert command(RESNET_JAX_CACHE_DIR=tmp_path / 'cache', **own) == ([printed], '')
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(('mode', 'used'), [(0o755, True), (0o777, False), (0o770, False)])
def test_the_users_own_folder_is_not_used_if_others_can_write_it(tmp_path, mode, used):
    own, ours = tmp_path / 'own', tmp_path / 'cache' / 'compiled'
    own.mkdir()
    own.chmod(mode)
    out, err = command(RESNET_JAX_CACHE_DIR=tmp_path / 'cache', JAX_COMPILATION_CACHE_DIR=own)
    assert out[0].split()[0] == str(own if used else ours)
    warning = f'warning: JAX_COMPILATION_CACHE_DIR={own} is not used, for others can write it (chmod go-w helps)'
    assert err.strip() == ('' if used else warning)


def test_the_users_own_threshold_is_respected(tmp_path):
    out, _ = command(RESNET_JAX_CACHE_DIR=tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='5')
    assert out == [f'{tmp_path}/compiled 5']


def read_only(tmp_path):
    if os.geteuid() == 0:
        pytest.skip('root writes anywhere')
    (tmp_path / 'compiled').mkdir()
    (tmp_path / 'compiled').chmod(0o500)
    return tmp_path


def beside_a_file(tmp_path):
    (tmp_path / 'compiled').touch()
    return tmp_path


def where_nothing_can_be_made(tmp_path):
    if not Path('/proc/self').exists():
        pytest.skip('no /proc')
    return '/proc/resnet_jax'


@pytest.mark.parametrize('place', [read_only, beside_a_file, where_nothing_can_be_made])
def test_a_folder_that_cannot_be_written_is_one_line_and_no_failure(tmp_path, place):
    folder = place(tmp_path)
    out, err = command(RESNET_JAX_CACHE_DIR=folder)
    assert out == ['None None']
    assert err.startswith(f'warning: compiled programs cannot be kept in {folder}/compiled (') and err.count('\n') == 1


ENTRY = zlib.compress(b'program' * 100)


@pytest.fixture
def folder(tmp_path):
    """Four entries: the first three are known, the last is new and the youngest."""
    for i in range(4):
        if i == 3:
            compilation_cache._check(tmp_path)
        (tmp_path / f'{i}-cache').write_bytes(ENTRY + bytes([i]))  # zlib ignores what follows
        os.utime(tmp_path / f'{i}-cache', ns=(i, i))
    return tmp_path


def left(folder):
    compilation_cache._check(folder)
    names = {path.name for path in folder.iterdir()} - {'checksums.json'}
    assert set(json.loads((folder / 'checksums.json').read_text())) == names
    return sorted(name.removesuffix('-cache') for name in names)


def test_whole_entries_stay(folder):
    assert left(folder) == ['0', '1', '2', '3']


@pytest.mark.parametrize('which', ['1', '3'], ids=['known', 'new'])
@pytest.mark.parametrize(
    'damage', [lambda data: b'garbage', lambda data: data[:-20], lambda data: b'', lambda data: b'\x28\xb5\x2f']
)
def test_damaged_entries_are_deleted(folder, which, damage):
    path = folder / f'{which}-cache'
    path.write_bytes(damage(path.read_bytes()))
    assert left(folder) == [name for name in '0123' if name != which]


def test_a_flipped_bit_that_the_compression_does_not_notice_is_noticed(folder):
    path = folder / '1-cache'
    path.write_bytes(path.read_bytes()[:-1] + b'\x00')
    zlib.decompress(path.read_bytes())  # notices nothing
    assert left(folder) == ['0', '2', '3']


@pytest.mark.parametrize('text', ['', 'garbage', '[]', '{"0-cache": "x"}', 'null'])
def test_without_the_checksums_entries_are_tried(folder, text):
    (folder / 'checksums.json').write_text(text)
    (folder / '1-cache').write_bytes(ENTRY[:-20])
    assert left(folder) == ['0', '2', '3']


def test_an_entry_that_others_can_write_is_deleted_with_a_warning(folder, capsys):
    (folder / '1-cache').chmod(0o666)
    assert left(folder) == ['0', '2', '3']
    assert f'warning: {folder / "1-cache"} is not used, for others can write it' in capsys.readouterr().err


def test_xlas_own_files_stay_until_they_are_damaged(folder):
    path = folder / 'autotune' / 'key.textproto'
    path.parent.mkdir()
    path.write_text('results')
    compilation_cache._check(folder)
    assert path.exists()
    path.write_text('resul')
    compilation_cache._check(folder)
    assert not path.exists()


def test_the_oldest_entries_go_where_there_is_too_much(folder, monkeypatch):
    monkeypatch.setattr(compilation_cache, '_MAX_BYTES', 2 * len(ENTRY) + 2)
    assert left(folder) == ['2', '3']


def test_zstd_entries(folder):
    zstandard = pytest.importorskip('zstandard')

    whole = zstandard.ZstdCompressor().compress(b'program' * 100)
    (folder / '4-cache').write_bytes(whole)
    (folder / '5-cache').write_bytes(whole[:-3])
    assert left(folder) == ['0', '1', '2', '3', '4']
