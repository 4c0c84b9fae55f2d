"""Standard output and standard error that are closed, full or left by their reader; and ~ in paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands_support import error_line
from installed import resnet_jax
from run_files import write_folder
from sampling import sample
from test_command_line import SCRIPT

FULL = Path('/dev/full')
full = pytest.mark.skipif(not FULL.exists(), reason='needs /dev/full')


def run(*arguments, unbuffered=False, **options):
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1' if unbuffered else ''}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options},
        env=environment,
        text=True,
        timeout=120,
    )
    assert 'Traceback' not in (done.stderr or '') and 'Exception ignored' not in (done.stderr or '')
    return done


def run_left(*arguments, **options):
    """Runs with a standard output that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    try:
        return run(*arguments, stdout=write, **options)
    finally:
        os.close(write)


@full
@pytest.mark.parametrize(
    ('body', 'code'),
    [
        ("raise errors.ConfigError('wrong')", 2),
        ("raise errors.InputFileError('wrong')", 3),
        ("raise errors.RunFolderInUseError('wrong')", 6),
        ('raise errors.Interrupted(signal.SIGTERM)', 143),
        ('raise KeyboardInterrupt', 130),
        ("raise OSError(5, 'Input/output error')", 5),
        ("print('said', file=sys.stderr)", 5),
        ("command.streams.tell('said'); print('done')", 0),
    ],
)
def test_a_full_disk_behind_standard_error_changes_no_exit_code(body, code):
    for options in ({}, {'unbuffered': True}):
        with FULL.open('w') as stderr:
            done = run('-c', SCRIPT.format(body=body), stderr=stderr, **options)
        assert (done.returncode, done.stdout) == (code, 'done\n' if not code else '')


@pytest.mark.parametrize('closed', [1, 2])
def test_closed_streams_change_no_exit_code(closed):
    for body, code in (("raise errors.ConfigError('wrong')", 2), ("print('done')", 0)):
        script = SCRIPT.format(body=body)
        done = subprocess.run(
            ['bash', '-c', f'"$0" -c "$1" {closed}>&-', sys.executable, script], capture_output=True, text=True
        )
        assert done.returncode == code
        assert (done.stdout, done.stderr) == (
            'done\n' if not code and closed == 2 else '',
            'error: wrong\n' * (code == closed + 1),
        )


VERBS = [['--version'], ['--help'], ['train', '--help'], ['models'], ['models', 'resnet8']]


@pytest.mark.parametrize('arguments', sample(VERBS, 3))
def test_a_reader_that_has_left_and_a_full_disk_behind_standard_output(arguments):
    for unbuffered in (False, True):
        done = run_left('-m', 'resnet_jax', *arguments, unbuffered=unbuffered)
        assert (done.returncode, done.stderr) == (141, '')
    if FULL.exists():
        with FULL.open('w') as stdout:
            done = run('-m', 'resnet_jax', *arguments, stdout=stdout)
        assert done.returncode == 5 and 'standard output' in error_line(done)


def test_a_comparison_is_written_whoever_reads_its_name(tmp_path):
    folder, out = write_folder(tmp_path / 'run'), tmp_path / 'out.html'
    done = run_left('-m', 'resnet_jax', 'compare', folder, f'--out={out}')
    assert (done.returncode, done.stderr) == (141, '') and '</html>' in out.read_text()


@pytest.mark.slow
def test_the_home_folder_in_paths(tmp_path):
    home = tmp_path / 'home'
    run_folder = write_folder(home / 'runs' / 'a')

    def call(*arguments, code=0):
        done = resnet_jax(tmp_path, *arguments, code=code, HOME=str(home))
        return error_line(done) if code else done.stdout

    call('train', '--init_config=~/mine.py')
    assert (home / 'mine.py').is_file()
    assert call('compare', run_folder, '--out=~/new/out.html') == f'{home}/new/out.html\n'
    assert f'{home}/none holds no run' in call('train', '--workdir=~/none', code=2)
    assert f'{home}/none' in call('train', '--workdir', '~/none', code=2)
    assert 'num_epochs' in call('train', '--config=~/mine.py', '--config.num_epochs=0', code=2)
    assert f'no run in {home}/none' in call('evaluate', '--workdir=~/none', code=3)
    assert f'no run in {home}/none' in call('export', '--workdir=~/none', '--out=~/out', code=3)
    assert f'no run in {home}/none' in call('predict', '--workdir=~/none', '~/a.png', code=3)
    assert f'{home}/none.pth cannot be read' in call(
        'convert', '--from=~/none.pth', '--model=resnet20', '--out=~/a.pth', code=3
    )
    assert f'{home}/none.pth cannot be read' in call('evaluate', '--weights=~/none.pth', '--dataset=digits', code=3)
    assert f'{home}/no/b.json' in call('benchmark', '--config=quickstart', '--json=~/no/b.json', code=2)
    assert '~nobody-of-this-name/a' in call('train', '--config=quickstart', '--workdir=~nobody-of-this-name/a', code=2)
    assert [path.name for path in tmp_path.iterdir()] == ['home']
