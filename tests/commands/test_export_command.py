import json
import subprocess
import sys

import pytest
from commands_support import error_line, run


def test_a_run_becomes_a_folder_to_serve_from(tiny_run, tmp_path):
    out = tmp_path / 'served'
    done = run('export.py', f'--workdir={tiny_run[0]}', f'--out={out}', '--format=both', devices=2)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        str(out / name) for name in ('model.stablehlo', 'model.onnx', 'config.json', 'README.md')
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['served']
    result = json.loads((tiny_run[0] / 'result.json').read_text())
    card = (out / 'README.md').read_text()
    assert f'value: {result["accuracy"]}' in card

    # What the card says works, as it stands there, and a non-empty folder is refused.
    code = [block.partition('```')[0] for block in card.split('```python\n')[1:]]
    program = 'import numpy; images = numpy.zeros((5, 8, 8, 1), "uint8")\n' + '\nprint(probabilities.shape)\n'.join([*code, ''])
    served = subprocess.run([sys.executable, '-I', '-c', program], cwd=out, capture_output=True, text=True, check=True)
    assert served.stdout == '(5, 10)\n' * 2
    assert 'exists' in error_line(run('export.py', f'--workdir={tiny_run[0]}', f'--out={out}', code=2))
    assert (out / 'README.md').read_text() == card


def test_averages_that_are_not_there_and_runs_that_are_not_there(tiny_run, tmp_path):
    done = run('export.py', f'--workdir={tiny_run[0]}', f'--out={tmp_path / "out"}', '--ema', code=2)
    assert 'no averaged parameters' in error_line(done)
    assert 'no run in' in error_line(run('export.py', f'--workdir={tmp_path}/x', f'--out={tmp_path / "out"}', code=3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('flags', 'text'),
    [(['--workdir=w'], '--out'), (['--out=o'], '--workdir'), (['--workdir=w', '--out=o', '--format=tflite'], 'format')],
)
def test_bad_flags_are_one_line(flags, text):
    assert text in error_line(run('export.py', *flags, code=2))
