import csv
import json
import re
import signal
import subprocess
import time

import pytest
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


@pytest.mark.slow
def test_a_study_is_made_reported_and_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    study, out = tmp_path / 'tiny.py', tmp_path / 'out'
    study.write_text(STUDY.replace('EPOCHS', '2').replace("'baseline'", "'imports': ['parts'], 'baseline'"))
    (tmp_path / 'parts.py').write_text('')
    flags = (f'--config={study}', f'--workdir={out}')
    dry = run('study.py', *flags, '--dry_run', timeout=300).stdout
    assert (
        '2 of 2 runs are left: about 0.0 hours (0.0 to 0.0)' in dry
        and 'measured now' in dry
        and 'slow/seed0: new, resnet8' in dry
    )
    assert not out.exists()
    lines = run('study.py', *flags, '--devices=0,1', timeout=300).stderr  # both at once
    assert 'diverged at iteration' in lines and f'{out}/slow/seed0 starts' in lines
    assert re.search(r'slow/seed0: test accuracy [\d.]+ %; \d+ % of the whole done, about 0:0\d:\d\d left', lines)
    results = json.loads((out / 'results.json').read_text())
    assert {name: entry['status'] for name, entry in results['entries'].items()} == {'slow': 'run', 'diverges': 'failed'}
    assert 'diverged' in json.loads((out / 'diverges/seed0' / 'failed.json').read_text())['reason']
    figures = results['entries']['slow']['runs']['0']
    assert figures['parameters'] > 0 and figures['iteration_seconds'] > 0 and figures['state_bytes'] > 0
    assert figures['environment']['imports'] == ['parts']
    assert figures['environment']['packages']['jax'] and len(figures['test']['accuracy']) == 2
    with (out / 'results.csv').open() as file:
        assert [row['entry'] for row in csv.DictReader(file)] == ['slow', 'diverges']
    assert 'section id="study"' in (out / 'report.html').read_text()
    assert {'accuracy.svg', 'accuracy.png', 'final.svg'} <= {path.name for path in (out / 'plots').iterdir()}
    before = (out / 'slow/seed0' / 'result.json').stat().st_mtime
    # The study's own process never starts JAX, which would take a GPU's memory from the runs.
    run('study.py', *flags, '--report_only', JAX_PLATFORMS='none_such')
    run('study.py', *flags, JAX_PLATFORMS='none_such')
    assert (out / 'slow/seed0' / 'result.json').stat().st_mtime == before
    assert 'not finished' not in (out / 'diverges/seed0' / 'report.html').read_text()  # its own, with what it has done
    study.write_text(study.read_text().replace('0.02', '0.03'))
    done = run('study.py', *flags, code=2)
    assert 'slow/seed0 holds a run of another config (learning_rate: 0.02 -> 0.03)' in error_line(done)


@pytest.mark.slow
def test_a_full_disk_is_no_finding(tmp_path):
    study, out = tmp_path / 'tiny.py', tmp_path / 'out'
    study.write_text(STUDY.replace('EPOCHS', '2').replace('1e30', '0.01'))
    flags = (f'--config={study}', f'--workdir={out}')
    done = run('study.py', *flags, code=2, timeout=300, RESNET_JAX_FAILPOINT='save:*:ENOSPC')
    assert error_line(done).count('(exit code 5)') == 2 and 'the same command tries again' in error_line(done)
    assert not list(out.rglob('failed.json'))
    run('study.py', *flags, timeout=300)
    entries = json.loads((out / 'results.json').read_text())['entries']
    assert {entry['status'] for entry in entries.values()} == {'run'}


@pytest.mark.slow
def test_the_seeds_of_an_entry_in_one_process(tmp_path):
    study, out = tmp_path / 'tiny.py', tmp_path / 'out'
    study.write_text(STUDY.replace('EPOCHS', '2'))
    flags = (f'--config={study}', f'--workdir={out}', '--seeds=2', '--together')
    log = run('study.py', *flags, timeout=600).stderr
    assert f'{out}/slow starts' in log and f'{out}/slow: test accuracy' in log and f'{out}/diverges: error: ' in log
    entries = json.loads((out / 'results.json').read_text())['entries']
    assert [list(entry['runs']) for entry in entries.values()] == [['0', '1'], []]
    assert {name: entry['status'] for name, entry in entries.items()} == {'slow': 'run', 'diverges': 'failed'}
    assert (out / 'slow' / 'output.log').read_text().count('Test accuracy') == 2
    run('study.py', *flags, JAX_PLATFORMS='none_such')  # nothing is left
    assert '--stop_when_decided' in error_line(run('study.py', *flags, '--stop_when_decided', code=2))


@pytest.mark.slow
def test_entries_that_are_decided_get_no_more_seeds(tmp_path):
    study, out = tmp_path / 'tiny.py', tmp_path / 'out'
    study.write_text(STUDY.replace('EPOCHS', '2').replace("'diverges'", "'far'").replace('1e30', '1e-6'))
    flags = (f'--config={study}', f'--workdir={out}', '--seeds=6', '--stop_when_decided')
    log = run('study.py', *flags, timeout=600).stderr
    results = json.loads((out / 'results.json').read_text())
    assert results['comparisons']['far']['verdict'] == 'worse' and results['looks'] == 5
    assert {entry['status'] for entry in results['entries'].values()} == {'decided'}
    assert f'{out}/slow/seed5 is left out' in log and not (out / 'far/seed5').exists()


@pytest.fixture
def start():
    """Starts studies, and ends with the test those that it leaves."""
    started = []

    def start(*flags):
        process = subprocess.Popen(**command('study.py', *flags), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_study_that_is_interrupted_or_killed_in_the_middle_continues_to_the_same_end(tmp_path, start):
    study, out, whole = tmp_path / 'tiny.py', tmp_path / 'out', tmp_path / 'whole'
    study.write_text(STUDY.replace('EPOCHS', '30').replace("'diverges'", "'second'").replace('1e30', '0.01'))
    flags = (f'--config={study}', f'--workdir={out}')
    process = start(*flags)
    wait_for(lambda: list(out.glob('slow/seed0/checkpoints/*')))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143 and 'The next start continues' in stderr
    process = start(*flags)
    wait_for(lambda: list(out.glob('second/seed0/checkpoints/*')))
    process.kill()  # its run gets a signal from the system, and saves its state while the next study already begins
    process.communicate(timeout=300)
    run('study.py', *flags, timeout=300)
    assert json.loads((out / 'results.json').read_text())['entries']['second']['status'] == 'run'
    run('study.py', f'--config={study}', f'--workdir={whole}', timeout=300)
    for name in ('slow/seed0', 'second/seed0'):
        assert (out / name / 'metrics.jsonl').read_bytes() == (whole / name / 'metrics.jsonl').read_bytes()
        assert 'Continuing' in (out / name / 'output.log').read_text()


def test_a_study_of_which_nothing_has_been_run_shows_what_was_published(tmp_path):
    run('study.py', '--config=configs/study/classics.py', f'--workdir={tmp_path}', '--report_only')
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<td>not run</td>') == 10 and '96.35 %' in page and 'table 7: mean of 10' in page
    assert (tmp_path / 'plots' / 'final.svg').is_file()


def test_wrong_studies_are_one_line(tmp_path):
    assert "no config file 'nowhere.py'" in error_line(run('study.py', '--config=nowhere.py', code=2))
    study = tmp_path / 'tiny.py'
    study.write_text(STUDY.replace('EPOCHS', '0'))
    assert 'num_epochs' in error_line(run('study.py', f'--config={study}', '--dry_run', code=2))
    assert 'no size' in error_line(run('study.py', f'--config={study}', '--size=huge', code=2))
    study.write_text(STUDY.replace('EPOCHS', '1').replace("'baseline'", "'imports': ['nowhere'], 'baseline'"))
    assert "module 'nowhere' cannot be imported" in error_line(run('study.py', f'--config={study}', '--dry_run', code=2))
