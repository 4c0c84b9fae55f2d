"""Damaged checkpoints are noticed, set aside and gone past; what is not ours is left alone."""

import json
import os
import shutil

import pytest
from commands_support import error_line
from faults_support import assert_same_outcome, hashes, outcome, rows, run, steps, temporary_files, train


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def extra_bytes(path):
    path.write_bytes(path.read_bytes() + b'\0')


def swap(path):
    """The same file of the checkpoint before."""
    before = str(int(path.parent.name) - 10)
    shutil.copy(path.parent.parent / before / path.name, path)


def symlink(path):
    path.rename(path.with_name('elsewhere'))
    path.symlink_to(path.with_name('elsewhere'))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def directory(path):
    path.unlink()
    path.mkdir()


def named(text):
    return lambda folder: next(p for p in sorted(folder.rglob('*')) if p.is_file() and text in str(p.relative_to(folder)))


DAMAGES = [  # one for each kind, over all kinds of files
    (flip_a_bit, 'arrays/d/'),
    (truncate, 'ocdbt.process_0/d/'),
    (zeros, 'SHA256SUMS'),
    (os.unlink, 'metadata.json'),
    (extra_bytes, 'arrays/_METADATA'),
    (swap, 'metadata.json'),
    (symlink, 'arrays/manifest.ocdbt'),
    (fifo, 'ocdbt.process_0/manifest.ocdbt'),
    (directory, 'arrays/_METADATA'),  # not commit_success.txt, which Orbax 0.12.0 does not write
]


@pytest.mark.parametrize(
    ('damage', 'name'),
    [pytest.param(*d, id=d[0].__name__, marks=[] if d[0] is flip_a_bit else pytest.mark.slow) for d in DAMAGES],
)
def test_a_damaged_checkpoint_is_set_aside_and_gone_past(damage, name, interrupted, expected):
    newest = steps(interrupted)[-1]
    damage(named(name)(interrupted / 'checkpoints' / str(newest)))
    done = train(interrupted)
    assert f'{newest} is damaged: ' in done.stdout and f'set aside as {newest}.damaged' in done.stdout
    assert name.rstrip('/') in done.stdout
    assert f'after iteration {newest - 10}' in done.stdout
    assert (interrupted / 'checkpoints' / f'{newest}.damaged').is_dir()
    assert_same_outcome(outcome(interrupted), expected)  # saved again, in the same bits


@pytest.mark.slow
def test_all_damaged_is_no_reason_to_start_over(interrupted):
    for number in steps(interrupted):
        flip_a_bit(interrupted / 'checkpoints' / str(number) / 'metadata.json')
    before = hashes(interrupted / 'tensorboard') | {'m': (interrupted / 'metrics.jsonl').read_bytes()}
    for _ in range(2):
        assert 'all checkpoints' in error_line(train(interrupted, code=3))
    assert hashes(interrupted / 'tensorboard') | {'m': (interrupted / 'metrics.jsonl').read_bytes()} == before
    assert not (interrupted / 'result.json').exists()


@pytest.mark.slow
def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / 'run')
    best = json.loads((workdir / 'result.json').read_text())['step']
    flip_a_bit(workdir / 'checkpoints' / str(best) / 'arrays' / '_METADATA')
    line = error_line(run('evaluate.py', f'--workdir={workdir}', code=3))
    assert f'checkpoints/{best} is damaged' in line and ('delete result.json' in line or best == 40)
    (workdir / 'result.json').unlink()
    left = [row for row in rows(workdir, 'validation') if row['step'] in set(steps(workdir)) - {best}]
    done = train(workdir)
    result = json.loads((workdir / 'result.json').read_text())
    if best == 40:  # it was also the last: trained again, it is the same
        assert result['step'] == best
        assert '40 is damaged: ' in done.stdout and 'after iteration 30' in done.stdout
    else:
        assert result['step'] == min(left, key=lambda row: (-row['accuracy'], row['step']))['step']
        assert 'It was the best on validation' in done.stdout
    assert (workdir / 'checkpoints' / f'{best}.damaged').is_dir()


@pytest.mark.slow
def test_a_read_error_that_passes_is_no_damage(interrupted, expected):
    done = train(interrupted, failpoint='verify:1:EIO')
    assert 'set aside' not in done.stdout
    assert_same_outcome(outcome(interrupted), expected)


@pytest.mark.slow
@pytest.mark.parametrize(('error', 'text'), [('EIO', 'Input/output error'), ('EACCES', 'Permission denied')])
def test_a_read_error_that_stays_changes_nothing(error, text, interrupted):
    before = hashes(interrupted / 'checkpoints')
    assert text in error_line(train(interrupted, failpoint=f'verify:*:{error}', code=5))
    assert hashes(interrupted / 'checkpoints') == before


@pytest.mark.slow
def test_stray_entries_are_ignored_and_foreign_files_stay(interrupted, expected):
    folder = interrupted / 'checkpoints'
    (folder / '99').mkdir()
    for name in ('.partial-98', '.partial-97-old'):
        (folder / name).mkdir()
    foreign = [folder / '7', folder / 'notes', interrupted / 'mine', folder / '30.bak']
    for one in foreign:
        one.mkdir()
        (one / 'file').write_bytes(os.urandom(100))
    (folder / '98').write_text('a file')
    before = hashes(*foreign)
    train(interrupted)
    assert hashes(*foreign) == before and (folder / '98').read_text() == 'a file' and (folder / '99').is_dir()
    assert_same_outcome(outcome(interrupted), expected)
    assert temporary_files(interrupted) == []
