import csv
import json
import signal
import subprocess
import time

from commands_support import command, error_line, run

STUDY = """
def get_study():
    kwargs = {'model_kwargs.num_filters': 4, 'model_kwargs.stage_sizes': [1, 1]}
    return {
        'baseline': 'slow',
        'entries': {
            'slow': {'config': 'quickstart', 'overrides': {**kwargs, 'learning_rate': 0.02}},
            'diverges': {'config': 'quickstart', 'overrides': {**kwargs, 'learning_rate': 1e30}},
        },
        'sizes': {'cpu': {'seeds': [0], 'overrides': {'num_epochs': EPOCHS, 'warmup_epochs': 0.0, 'schedule': 'constant'}}},
    }
"""


def test_a_study_is_made_reported_and_not_made_again(tmp_path):
    study = tmp_path / 'tiny.py'
    study.write_text(STUDY.replace('EPOCHS', '2'))
    flags = (f'--config={study}', f'--workdir={tmp_path / "out"}')
    assert '2 of 2 runs are left' in run('study.py', *flags, '--dry_run').stdout
    assert not (tmp_path / 'out').exists()
    run('study.py', *flags)
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert {name: entry['status'] for name, entry in results['entries'].items()} == {'slow': 'run', 'diverges': 'not run'}
    assert 'diverged' in json.loads((tmp_path / 'out' / 'diverges-seed0' / 'failed.json').read_text())['reason']
    with (tmp_path / 'out' / 'results.csv').open() as file:
        assert [row['entry'] for row in csv.DictReader(file)] == ['slow']
    assert 'section id="study"' in (tmp_path / 'out' / 'report.html').read_text()
    before = (tmp_path / 'out' / 'slow-seed0' / 'result.json').stat().st_mtime
    assert '0 of 2 runs are left' in run('study.py', *flags, '--dry_run').stdout
    run('study.py', *flags)
    assert (tmp_path / 'out' / 'slow-seed0' / 'result.json').stat().st_mtime == before


def test_an_interrupted_study_saves_and_continues(tmp_path):
    study, out = tmp_path / 'tiny.py', tmp_path / 'out'
    study.write_text(STUDY.replace('EPOCHS', '3000'))
    flags = ('study.py', f'--config={study}', f'--workdir={out}')
    process = subprocess.Popen(**command(*flags), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob('slow-seed0/checkpoints/*')) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and 'same command continues' in stderr
    assert 'slow-seed0: started' in run(*flags, '--dry_run').stdout


def test_wrong_studies_are_one_line(tmp_path):
    assert 'expected --config' in error_line(run('study.py', '--config=nowhere.py', code=2))
    study = tmp_path / 'tiny.py'
    study.write_text(STUDY.replace('EPOCHS', '0'))
    assert 'num_epochs' in error_line(run('study.py', f'--config={study}', '--dry_run', code=2))
    assert 'no size' in error_line(run('study.py', f'--config={study}', '--size=huge', code=2))
