import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_files import write_folder

ROOT = Path(__file__).resolve().parents[2]


def compare(*arguments, code=0):
    command = [sys.executable, ROOT / 'bin' / 'compare.py', *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=arguments[-1] if Path(arguments[-1]).is_dir() else ROOT)
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr and done.stderr.count('error: ') == (code > 0)
    return done.stderr if code else done.stdout


def test_runs_of_the_same_name_stand_side_by_side(tmp_path):
    folders = [write_folder(tmp_path / parent / 'run', seed) for seed, parent in enumerate('xy')]
    config = json.loads((folders[1] / 'config.json').read_text())
    (folders[1] / 'config.json').write_text(json.dumps({**config, 'model': 'resnet14'}))
    out = tmp_path / 'out.html'
    assert compare(*folders, f'--out={out}', '--title=Two of them').strip() == str(out)
    page = out.read_text()
    assert '<title>Two of them</title>' in page and '<td>x/run - y/run</td>' in page
    assert '<th>class</th><th>x/run</th><th>y/run</th>' in page  # by class
    assert '<tr class="differs"><td>model</td><td>resnet8</td><td>resnet14</td></tr>' in page


def test_what_cannot_be_compared_is_one_line(tmp_path):
    run = write_folder(tmp_path / 'run')
    out = f'--out={tmp_path / "out.html"}'
    assert 'expected run folders' in compare(out, code=2)
    assert f'no run in {tmp_path}: expected a folder with config.json' in compare(out, run, tmp_path, code=3)
    assert f'{run} is given 2 times' in compare(out, run, run, code=2)
    assert 'cannot be written' in compare(f'--out={run / "config.json" / "out.html"}', run, code=5)
    (run / 'environment.json').write_text('{"packages": 3}')
    assert f"{run}/environment.json is not what a run writes (it has '3' as packages)" in compare(out, run, run.parent, code=3)
    assert not (tmp_path / 'out.html').exists()


@pytest.mark.parametrize('value', [{'calibration': 'none'}, {'calibration': {'bins': 3}}, {'per_class_accuracy': 7}])
def test_a_file_that_no_run_writes_is_one_line(value, tmp_path):
    run = write_folder(tmp_path / 'run')
    (run / 'evaluation.json').write_text(json.dumps(value))
    assert f'a file of {run} is not what a run writes' in compare(f'--out={tmp_path / "out.html"}', run, code=3)
