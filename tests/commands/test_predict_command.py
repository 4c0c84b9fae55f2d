import json
import os
import shutil

import numpy as np
import pytest
from commands_support import error_line, run
from PIL import Image


@pytest.fixture
def digit(tmp_path):
    """A file with the first of scikit-learn's digits, a zero, at three times its size."""
    from sklearn.datasets import load_digits

    image = Image.fromarray((load_digits().images[0] * 255 / 16).astype(np.uint8))
    image.resize((24, 24), Image.Resampling.NEAREST).save(tmp_path / 'zero.png')
    return tmp_path / 'zero.png'


def test_it_prints_the_most_likely_classes(tiny_run, digit):
    done = run('predict.py', f'--workdir={tiny_run[0]}', '--top=2', digit, digit, new_process=True)
    first, second = done.stdout.splitlines()
    assert first == second and first.startswith(f'{digit}: ') and first.count('%') == 2


def test_json_holds_probabilities(tiny_run, digit):
    answer = json.loads(run('predict.py', f'--workdir={tiny_run[0]}', '--top=99', '--json', digit).stdout)
    probabilities = [c['probability'] for c in answer['classes']]
    assert len(probabilities) == 10 and sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)


def test_bad_files_are_named_and_good_ones_answered(tiny_run, digit, tmp_path):
    (tmp_path / 'text.png').write_text('this is no image')
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'cut.png').write_bytes(digit.read_bytes()[:60])
    files = [tmp_path / 'text.png', digit, tmp_path / 'empty.png', tmp_path / 'cut.png', tmp_path, tmp_path / 'missing.png']
    done = run('predict.py', f'--workdir={tiny_run[0]}', *files, code=3)
    assert done.stdout.startswith(f'{digit}: ') and len(done.stdout.splitlines()) == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert [line.split()[1] for line in errors] == [str(f) for f in files if f != digit]


@pytest.mark.slow
def test_it_draws_what_speaks_for_its_answers(tiny_run, digit, tmp_path):
    picture = tmp_path / 'new' / 'why.png'
    bad = tmp_path / 'text.png'
    bad.write_text('this is no image')
    done = run('predict.py', f'--workdir={tiny_run[0]}', f'--explain={picture}', digit, bad, digit, code=3)
    assert len(done.stdout.splitlines()) == 2 and str(picture) in done.stderr
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert('RGB')).astype(int)
    assert 900 < pixels.shape[1] < 1300 and 500 < pixels.shape[0] < 900  # two rows of four
    top, bottom = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]
    assert len(np.unique(top.reshape(-1, 3), axis=0)) > 30 and np.abs(top.mean() - bottom.mean()) < 3  # the same image twice
    (tmp_path / 'file').write_text('')
    error = error_line(run('predict.py', f'--workdir={tiny_run[0]}', f'--explain={tmp_path}/file/why.png', digit, code=5))
    assert 'file/why.png cannot be written' in error


@pytest.mark.parametrize(
    ('flags', 'text'),
    [
        (['x.png'], '--workdir'),
        (['--workdir=w'], 'image file'),
        (['--top=0', 'x'], 'top'),
        (['--workdir=w', '--explain=why.txt', 'x'], 'ends in .png or .svg'),
        (['--workdir=w', '--explain=why.png', *41 * 'x'], '40 images at most, not 41'),
    ],
)
def test_bad_flags_are_one_line(flags, text):
    assert text in error_line(run('predict.py', *flags, code=2))


@pytest.mark.parametrize('environment', [{'PYTHONIOENCODING': 'ascii'}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'}, {}])
def test_names_that_the_terminal_cannot_show_lose_no_answer(environment, tiny_run, digit, tmp_path):
    names = [os.fsencode(tmp_path) + name for name in (b'caf\xc3\xa9.png', b'bytes \xff.png', b'last.png')]
    for name in names:
        shutil.copy(digit, name)
    missing = os.fsdecode(os.fsencode(tmp_path) + b'missing \xff.png')
    done = run('predict.py', f'--workdir={tiny_run[0]}', *map(os.fsdecode, names), missing, code=3, **environment)
    lines = done.stdout.splitlines()
    assert (
        len(lines) == 3
        and lines[1].startswith(f'{tmp_path}bytes \\udcff.png: ')
        and lines[2].startswith(f'{tmp_path}last.png: ')
    )
    assert 'missing \\udcff.png' in error_line(done)
