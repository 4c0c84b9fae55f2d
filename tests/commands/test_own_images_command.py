"""From a folder of pictures to a report and predictions, as a user does it; and the data command."""

import json

import numpy as np
import pytest
from commands_support import TINY, error_line, run
from PIL import Image

TRAIN = (*TINY, '--config.num_epochs=2', '--config.batch_size=8')


def _error(code, *arguments):
    return error_line(run(*arguments, code=code))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Red and blue pictures of several sizes, with what lies about in such folders."""
    root = tmp_path_factory.mktemp('set') / 'red and blue'
    rng = np.random.default_rng(0)
    for part, count in (('train', 8), ('val', 3)):
        for name, channel in (('blue', 2), ('red', 0)):
            folder = root / part / name
            folder.mkdir(parents=True)
            (folder / '.DS_Store').touch()
            for i in range(count):
                pixels = rng.integers(0, 60, (20 + i, 30, 3), np.uint8)
                pixels[..., channel] += 180
                Image.fromarray(pixels).save(folder / f'{i}.jpg')
    return root


def test_from_a_folder_to_a_report_and_predictions(pictures, tmp_path):
    workdir, data = tmp_path / 'run', f'--config.dataset=folder:{pictures}'
    done = run('train.py', *TRAIN, data, '--config.image_size=8', f'--workdir={workdir}')
    text = done.stdout + done.stderr
    assert (
        '4 hidden left out' in text and 'from 20 x 30 to 27 x 30 pixels become 8 x 8' in text and '16 training images' in text
    )
    page = (workdir / 'report.html').read_text()
    assert 'from 20 x 30 to 27 x 30 pixels become 8 x 8' in page and 'training images, a row for each class' in page
    assert '<td>red</td><td>8</td><td>3</td>' in page
    result = json.loads((workdir / 'result.json').read_text())
    assert result['count'] == 6
    path = pictures / 'val' / 'red' / '0.jpg'
    (line,) = run('predict.py', f'--workdir={workdir}', str(path)).stdout.splitlines()
    assert line.startswith(f'{path}: ') and 'red' in line and 'blue' in line
    evaluated = json.loads(run('evaluate.py', f'--workdir={workdir}', '--json').stdout)
    assert evaluated['accuracy'] == result['accuracy']


def test_the_data_command(pictures, tmp_path):
    sheet = tmp_path / 'sheet.png'
    text = run('data.py', f'folder:{pictures}', '--image_size=16', f'--samples={sheet}').stdout
    assert '16 train, 6 test images in 2 classes, 16 x 16, RGB' in text
    assert [line.split() for line in text.splitlines()[-2:]] == [['blue', '8', '3'], ['red', '8', '3']]
    with Image.open(sheet) as image:
        assert image.width > image.height > 50
    facts = json.loads(run('data.py', 'digits', '--json').stdout)
    assert sum(facts['counts']['train']) == 1437 and facts['duplicates']['test_in_train'] == 0
    (pictures / 'train' / 'red' / '8.jpg').write_bytes(b'?')
    assert 'red/8.jpg cannot be read' in _error(
        3, 'train.py', *TRAIN, f'--config.dataset=folder:{pictures}', f'--workdir={tmp_path}'
    )
    text = run('data.py', f'folder:{pictures}', '--broken_images=skip').stdout
    assert '1 broken image left out' in text and '16 train, 6 test' in text
    assert 'nowhere is not a folder; expected one folder of images for each class' in _error(3, 'data.py', 'folder:nowhere')
    assert 'is neither a .png nor a .svg' in _error(2, 'data.py', 'digits', '--samples=a.gif')
    assert 'expected one data set' in _error(2, 'data.py')
