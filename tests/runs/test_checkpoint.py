import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError, InputFileError, ResourceError
from resnet_jax.runs import checkpoint
from resnet_jax.runs.checksums import checksums_text
from resnet_jax.runs.metadata import Metadata, read_metadata
from resnet_jax.runs.progress import Best, ConfigChange, Progress
from resnet_jax.runtime.devices import replicate
from resnet_jax.training.state import TrainState


def make_state(step=7, width=3):
    """Every dtype that a state may have, values that a cast would lose, and names that need care."""
    rng = np.random.default_rng(step)
    params = {
        'conv1': {'kernel': rng.normal(size=(3, 3, 2, width)).astype(np.float32)},
        'layer1_0': {'bn1': {'scale': np.array([np.nextafter(np.float32(1), np.float32(2))] * width)}},
    }
    opt_state = (
        {'trace': jax.tree.map(lambda p: -p, params)},
        (),
        {'count': np.int32(2**31 - 1), 'half': jnp.array([1.5, -0.0], jnp.bfloat16), 'bits': np.arange(5, dtype=np.uint32)},
    )
    stats = {'bn1': {'mean': np.full(width, -1e-30, np.float32), 'var': np.zeros(width, np.float32)}}
    return TrainState(np.int32(step), params, stats, opt_state, {'params': params, 'batch_stats': stats})


DATASET = {
    'name': 'stripes',
    'fingerprint': 'abc',
    'image_shape': [8, 8, 1],
    'class_names': ['top', 'bottom'],
    'mean': [0.3],
    'std': [0.2],
}


def metadata(step=7, **changes):
    progress = {'step': step, 'pending': [{'loss': 0.1 + 0.2, 'accuracy': 0.5, 'grad_norm': 1e-7}], 'seconds': 1.5, **changes}
    config = TrainConfig(seed=3, milestones=(0.5,), model_kwargs={'stage_sizes': (1, 1)})
    return Metadata(config, DATASET, Progress(**progress), {'platform': 'cpu'})


@pytest.fixture(scope='module')
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    for step in (5, 7):
        checkpoint.save(folder, make_state(step), metadata(step))
    return folder


@pytest.fixture
def folder(saved_once, tmp_path):
    """A folder with checkpoints 5 and 7, which the test may damage."""
    return shutil.copytree(saved_once, tmp_path / 'checkpoints')


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob('*') if p.is_file())


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for name, a, b in zip(checkpoint.leaves_by_name(expected), jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def test_leaves_by_name():
    names = checkpoint.leaves_by_name(make_state())
    assert 'step' in names and 'params/conv1/kernel' in names and 'batch_stats/bn1/var' in names
    assert 'opt_state/2/count' in names and 'ema/params/layer1_0/bn1/scale' in names


def test_round_trip_is_bitwise(folder):
    checkpoint.verify(folder / '7')
    assert_identical(checkpoint.restore(folder / '7', make_state(99)), make_state(7))


def test_round_trip_through_shapes_and_devices(tmp_path):
    """What is saved does not depend on how many devices hold it, and is restored from shapes alone."""
    path = checkpoint.save(tmp_path, replicate(make_state()), metadata())
    assert path == tmp_path / '7'
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_state()))
    assert_identical(replicate(checkpoint.restore(path, shapes)), make_state())


@pytest.mark.parametrize('name', ['a[b]', 'a*', 'a**b', 'a\\b', 'gs:', 'r\udcff', ' %#?{}\'"$x~\n'])
def test_a_folder_may_have_any_name(name, tmp_path, monkeypatch):
    """Orbax and TensorStore take paths as patterns, as addresses of buckets and as UTF-8."""
    links = tmp_path / 'links'
    links.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(links))
    path = checkpoint.save(tmp_path / name, make_state(), metadata())
    checkpoint.verify(path)
    assert_identical(checkpoint.restore(path, make_state(99)), make_state(7))
    assert checkpoint.count_leaves(path) == len(jax.tree.leaves(make_state()))
    assert entries(links) == []
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'missing'))
    with pytest.raises(ResourceError, match='TMPDIR'):
        checkpoint.restore(path, make_state(99))


def test_a_part_can_be_restored(folder):
    state = make_state(7)
    part = {'params': state.params, 'batch_stats': state.batch_stats}
    assert_identical(checkpoint.restore(folder / '7', part), part)


def test_metadata(folder):
    assert read_metadata(folder / '7') == metadata()


def test_everything_that_a_run_remembers_comes_back(tmp_path):
    changes = [ConfigChange(3, {'learning_rate': [0.1, 0.01]})]
    evaluation = {'loss': 0.5, 'accuracy': 0.25, 'count': 8, 'tta': 'mirror'}
    kept = metadata(best=Best(5, 0.75), evaluation=evaluation, evaluation_due=True, rollbacks=2, changes=changes)
    assert read_metadata(checkpoint.save(tmp_path, make_state(7), kept)) == kept


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('step', -7),
        ('step', 7.0),
        ('step', True),
        ('seconds', float('inf')),
        ('seconds', -1),
        ('seconds', '1'),
        ('best', {'step': 5}),
        ('best', {'step': 5, 'accuracy': float('nan')}),
        ('best', {'step': '../../x', 'accuracy': 0.5}),
        ('evaluation', {'loss': 0.5}),
        ('evaluation', {'loss': float('nan'), 'accuracy': 0.5, 'count': 8}),
        ('evaluation', []),
        ('evaluation_due', 1),
        ('pending', [{'loss': None}]),
        ('pending', {}),
        ('rollbacks', 2000),
        ('changes', [{'step': 1, 'fields': {'learning_rate': [0.1]}}]),
        ('changes', [3]),
    ],
)
def test_progress_that_no_run_has_written_is_refused(folder, name, value):
    text = json.loads((folder / '7' / 'metadata.json').read_text())
    rewrite_metadata(folder / '7', progress={**text['progress'], name: value})
    with pytest.raises(InputFileError, match=rf'metadata.json has .* as {name}; it is not of this program, or was edited'):
        read_metadata(folder / '7')


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('progress', {}, 'has .* as progress'),
        ('progress', None, 'has .* as progress'),
        ('config', [], 'has .* as config'),
        ('config', {'batch_size': -1}, 'has a config that this version cannot use: .*batch_size'),
        ('config', {'from_the_future': 1}, "cannot use: unknown config field 'from_the_future'"),
        ('dataset', {**DATASET, 'image_shape': [8, 8]}, 'does not describe its data set'),
        ('dataset', {**DATASET, 'image_shape': [10**9, 8, 1]}, 'does not describe its data set'),
        ('dataset', {**DATASET, 'std': [float('nan')]}, 'does not describe its data set'),
        ('dataset', {**DATASET, 'class_names': []}, 'does not describe its data set'),
        ('dataset', {**DATASET, 'fingerprint': 3}, 'does not describe its data set'),
    ],
)
def test_metadata_that_no_run_has_written_are_refused(folder, name, value, message):
    rewrite_metadata(folder / '7', **{name: value})
    with pytest.raises(InputFileError, match=message):
        read_metadata(folder / '7')


def test_the_sums_are_those_of_sha256sum(folder):
    result = subprocess.run(['sha256sum', '--check', '--quiet', 'SHA256SUMS'], cwd=folder / '7', capture_output=True)
    assert result.returncode == 0, result.stderr
    sums = (folder / '7' / 'SHA256SUMS').read_text()
    digest = hashlib.sha256((folder / '7' / 'metadata.json').read_bytes()).hexdigest()
    assert f'{digest}  metadata.json\n' in sums
    assert len(sums.splitlines()) == len(files(folder / '7'))  # one each, but its own; and its own sum


def flip_first(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def flip_middle(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def flip_last(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def swap_with_another(path):
    root = next(folder for folder in path.parents if (folder / 'SHA256SUMS').exists())
    others = (p for p in sorted(root.rglob('*')) if p.is_file() and p.read_bytes() != path.read_bytes())
    other = next(others)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def empty(path):
    path.write_bytes(b'')


def extend(path):
    path.write_bytes(path.read_bytes() + b'\n')


def symlink_to_a_copy(path):
    copy = path.parents[3] / 'copy'
    path.rename(copy)
    path.symlink_to(copy)


def directory(path):
    path.unlink()
    path.mkdir()


def directory_with_a_file(path):
    path.unlink()
    path.mkdir()
    (path / 'file').write_text('x')


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def rename(path):
    path.rename(path.with_name(path.name + 'x'))


DAMAGES = (
    flip_first,
    flip_middle,
    flip_last,
    truncate,
    zeros,
    swap_with_another,
    empty,
    extend,
    symlink_to_a_copy,
    directory,
    directory_with_a_file,
    fifo,
    rename,
    os.unlink,
)


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_to_every_file_is_noticed(saved_once, tmp_path, damage):
    names = files(saved_once / '7')
    assert len(names) > 3 and {'SHA256SUMS', 'metadata.json'} < set(names)
    for index, name in enumerate(names):
        path = tmp_path / 'a' / 'b' / str(index)  # deep enough for symlink_to_a_copy to stay inside tmp_path
        shutil.copytree(saved_once / '7', path)
        if damage in (flip_first, flip_middle, flip_last, truncate, zeros, empty) and not (path / name).stat().st_size:
            continue
        damage(path / name)
        with pytest.raises(InputFileError, match='is damaged: ') as info:
            checkpoint.verify(path)
        assert '\n' not in str(info.value)


@pytest.mark.parametrize('name', ['extra', 'arrays/extra', 'new/extra'])
def test_extra_files_are_noticed(folder, name):
    path = folder / '7' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('')
    with pytest.raises(InputFileError, match=f'{name} does not belong to it'):
        checkpoint.verify(folder / '7')


def test_a_linked_folder_is_noticed(folder, tmp_path):
    (folder / '7' / 'arrays').rename(tmp_path / 'arrays')
    (folder / '7' / 'arrays').symlink_to(tmp_path / 'arrays')
    with pytest.raises(InputFileError, match='arrays is not a regular file'):
        checkpoint.verify(folder / '7')


def test_sums_that_were_made_to_fit_a_changed_file_are_noticed(folder):
    """A file and its line, but not the sum of the sums."""
    file, sums = folder / '7' / 'metadata.json', folder / '7' / 'SHA256SUMS'
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 4'))
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(file.read_bytes()).hexdigest()))
    with pytest.raises(InputFileError, match='SHA256SUMS does not match its own checksum'):
        checkpoint.verify(folder / '7')


def test_an_undamaged_copy_passes(folder):
    checkpoint.verify(folder / '5')
    checkpoint.verify(folder / '7')


@pytest.fixture
def messages():
    """What the package logs."""
    logger, found = logging.getLogger('resnet_jax'), []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_latest_is_the_newest(folder, messages):
    assert checkpoint.latest(folder) == folder / '7'
    assert entries(folder) == ['5', '7'] and messages == []


def test_latest_sets_a_damaged_one_aside_and_takes_the_one_before(folder, messages):
    flip_middle(folder / '7' / 'metadata.json')
    assert checkpoint.latest(folder) == folder / '5'
    assert entries(folder) == ['5', '7.damaged']
    assert len(messages) == 1
    assert 'metadata.json has changed' in messages[0] and 'set aside as 7.damaged' in messages[0]
    assert checkpoint.latest(folder) == folder / '5' and len(messages) == 1


def test_latest_does_not_overwrite_what_was_set_aside_before(folder, saved_once):
    for _ in range(3):
        flip_middle(folder / '7' / 'metadata.json')
        checkpoint.latest(folder)
        shutil.copytree(saved_once / '7', folder / '7')
    assert entries(folder) == ['5', '7', '7.damaged', '7.damaged2', '7.damaged3']


def test_latest_does_not_start_over_if_all_are_damaged(folder):
    for step in (5, 7):
        truncate(folder / str(step) / 'SHA256SUMS')
    for _ in range(2):  # and not the second time either
        with pytest.raises(
            InputFileError, match=r'all checkpoints .* are damaged \(5.damaged, 7.damaged\); .* another run folder'
        ):
            checkpoint.latest(folder)


def test_latest_of_nothing(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / 'missing') is None


def test_latest_survives_one_that_vanishes(folder, monkeypatch):
    """A run in training deletes old ones while bin/evaluate.py looks."""
    verify = checkpoint.verify

    def vanish(path):
        if path.name == '7':
            shutil.rmtree(path)
        verify(path)

    monkeypatch.setattr(checkpoint, 'verify', vanish)
    assert checkpoint.latest(folder) == folder / '5'
    assert entries(folder) == ['5']


def test_other_entries_are_ignored(folder):
    for name in ('99', '.partial-100', 'tmp', '-3', '1.5', '008', '\N{SUPERSCRIPT TWO}', '\N{ARABIC-INDIC DIGIT NINE}'):
        (folder / name).mkdir()
        if name != '99':  # an empty folder with a number for a name
            (folder / name / 'file').write_text('x')
    (folder / '98').write_text('a file with a number for a name')
    assert checkpoint.steps(folder) == [5, 7]
    assert checkpoint.latest(folder) == folder / '7'
    checkpoint.keep_only(folder, [7])
    assert not {'5', '.partial-100'} & set(entries(folder))
    assert {'7', '99', 'tmp', '-3', '1.5', '008', '98'} < set(entries(folder))


def test_keep_only(folder):
    checkpoint.keep_only(folder, [5, 7, 12])
    assert entries(folder) == ['5', '7']
    checkpoint.keep_only(folder, [7])
    assert entries(folder) == ['7']
    checkpoint.keep_only(folder, [])
    assert entries(folder) == []


def test_keep_only_after_an_interrupted_deletion_of_the_same_step(folder):
    (folder / '.partial-5').mkdir()
    (folder / '.partial-5' / 'rest').write_text('x')
    checkpoint.keep_only(folder, [7])
    assert entries(folder) == ['7']


def test_damaged_ones_are_kept(folder):
    flip_first(folder / '7' / 'SHA256SUMS')
    checkpoint.latest(folder)
    checkpoint.keep_only(folder, [])
    assert entries(folder) == ['7.damaged']


def test_saving_a_step_again_replaces_it(folder):
    checkpoint.save(folder, make_state(7), metadata(seconds=2.5))
    checkpoint.verify(folder / '7')
    assert read_metadata(folder / '7').progress.seconds == 2.5 and entries(folder) == ['5', '7']


def test_saving_over_what_an_interrupted_save_left(folder):
    (folder / '.partial-9').mkdir()
    (folder / '.partial-9' / 'old').write_text('x')
    path = checkpoint.save(folder, make_state(9), metadata(9))
    checkpoint.verify(path)
    assert 'old' not in files(path) and entries(folder) == ['5', '7', '9']


def test_another_network_names_the_first_leaf_that_differs(folder):
    with pytest.raises(ConfigError) as info:
        checkpoint.restore(folder / '7', make_state(7, width=4))
    message = str(info.value)
    assert 'is of another network: batch_stats/bn1/mean is float32[3] there, expected float32[4]' in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s.replace(params={**s.params, 'fc': {'bias': np.zeros(3, np.float32)}}),
            'params/fc/bias is nothing there, expected float32[3]',
        ),
        (
            lambda s: s.replace(batch_stats={'bn1': {'mean': s.batch_stats['bn1']['mean']}}),
            'batch_stats/bn1/var is float32[3] there, expected nothing',
        ),
        (
            lambda s: s.replace(params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), s.params)),
            'params/conv1/kernel is float32[3, 3, 2, 3] there, expected bfloat16[3, 3, 2, 3]',
        ),
        (lambda s: s.replace(step=np.int64(7)), 'step is int32[] there, expected int64[]'),
    ],
)
def test_every_difference_in_structure_shape_or_dtype_is_an_error(folder, change, message):
    with pytest.raises(ConfigError) as info:
        checkpoint.restore(folder / '7', change(make_state(7)))
    assert message in str(info.value)


def rewrite_metadata(path, **values):
    """Changes metadata.json and the sums with it, as another version of the program might have written them."""
    (path / 'metadata.json').write_text(json.dumps({**json.loads((path / 'metadata.json').read_text()), **values}))
    (path / 'SHA256SUMS').write_text(checksums_text(path))


def test_a_newer_format(folder):
    rewrite_metadata(folder / '7', format=checkpoint.FORMAT + 1)
    checkpoint.verify(folder / '7')
    with pytest.raises(InputFileError, match=r'has format 3; this version reads 2: upgrade resnet_jax'):
        read_metadata(folder / '7')


def test_a_format_that_was_never_released(folder):
    rewrite_metadata(folder / '7', format=1)
    with pytest.raises(InputFileError, match=r'has format 1; this version reads 2: train again'):
        read_metadata(folder / '7')


def test_unwritable(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ResourceError, match=r'checkpoint .* could not be written: .*; free space or choose another run folder'):
        checkpoint.save(tmp_path / 'file', make_state(), metadata())
    assert entries(tmp_path) == ['file']


@pytest.mark.parametrize('limit', [0, 200, 2000])
def test_a_disk_that_is_full_sooner_or_later(folder, limit):
    """A limit on the size of files stands for the full disk."""
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ResourceError, match=r'checkpoint .*/9 could not be written: .*File too large') as info:
            checkpoint.save(folder, make_state(9, width=50), metadata(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert '\n' not in str(info.value) and len(str(info.value)) < 300
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert entries(folder) == ['5', '7']
    checkpoint.verify(checkpoint.save(folder, make_state(9), metadata(9)))  # and goes on when there is room


def test_threads_that_outlive_the_error_leave_nothing_and_say_nothing(folder, monkeypatch, capfd):
    """TensorStore goes on writing for a while after Orbax has raised, and reports to an event loop that is closed by then."""

    loop = asyncio.new_event_loop()
    loop.close()

    class Report:
        __del__ = functools.partial(loop.call_soon_threadsafe, print)  # called without a frame of Python's

    class Other:
        def __del__(self):
            raise RuntimeError('Event loop is closed')

    class Checkpointer(contextlib.AbstractContextManager):
        def __exit__(self, *_):
            return None

        def save(self, path, nested):
            def go_on():
                time.sleep(0.1)
                (path / 'd').mkdir(parents=True)
                Report()

            self.thread = threading.Thread(target=go_on)
            self.thread.start()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpointer = Checkpointer()
    monkeypatch.setattr(checkpoint, '_checkpointer', lambda: checkpointer)
    monkeypatch.setattr(sys, 'unraisablehook', sys.__unraisablehook__)  # as a command has it
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    with pytest.raises(ResourceError, match='No space left on device'):
        checkpoint.save(folder, make_state(9), metadata(9))
    checkpointer.thread.join()
    assert entries(folder) == ['5', '7'] and capfd.readouterr().err == ''
    Report()
    assert capfd.readouterr().err == ''
    Other()
    assert 'Event loop is closed' in capfd.readouterr().err  # elsewhere such an error is no secret


def test_what_json_cannot_hold_is_no_checkpoint(folder):
    with pytest.raises(TypeError):
        checkpoint.save(folder, make_state(9), metadata(9, pending=[{'array': np.zeros(3)}]))
    assert entries(folder) == ['5', '7']
    assert checkpoint.latest(folder) == folder / '7'


def test_who_only_reads_passes_a_damaged_one_over_and_leaves_it(folder, messages):
    flip_middle(folder / '7' / 'metadata.json')
    assert checkpoint.latest(folder, rename=False) == folder / '5'
    assert entries(folder) == ['5', '7'] and 'passed over' in messages[0]
