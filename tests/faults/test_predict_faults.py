"""bin/predict.py on whatever a folder of images may hold: bad files named, good ones answered, 1.5 GB at most."""

import os
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults_support import command
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc'),
]


def picture(size=(40, 30), mode='RGB'):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def huge(path):
    """A PNG whose header claims 60,000 x 60,000 pixels."""
    Image.new('1', (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (60000).to_bytes(4, 'big') * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, 'big')
    path.write_bytes(data)


def truncated(path):
    picture((200, 200)).save(path, 'PNG')
    path.write_bytes(path.read_bytes()[:5000])


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


GOOD = {
    'one.png': lambda path: picture((1, 1)).save(path),
    'cmyk.jpg': lambda path: picture(mode='CMYK').save(path),
    'sixteen.png': lambda path: Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(path),
    'palette.png': lambda path: picture(mode='P').save(path),
    'transparent.png': lambda path: picture(mode='RGBA').save(path),
    'rotated.jpg': rotated,
    'animated.gif': lambda path: picture().save(path, save_all=True, append_images=[picture((40, 30), 'L')]),
}
BAD = {
    'empty.png': lambda path: path.write_bytes(b''),
    'text.png': lambda path: path.write_text('no image'),
    'truncated.png': truncated,
    'huge.png': huge,
    'drawing.eps': lambda path: picture().save(path),
    'drawing.svg': lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'),
    'document.pdf': lambda path: picture().save(path),
    'fifo.png': os.mkfifo,
    'folder.png': os.mkdir,
}


def predict(workdir, *files):
    """Returns the exit code, standard output, standard error and peak memory in MB of bin/predict.py."""
    options = command('predict.py', f'--workdir={workdir}', *files, through=[Path(__file__).with_name('peak_memory.py')])
    done = subprocess.run(**options, capture_output=True, text=True)
    err, _, peak = done.stderr.rpartition('peak memory in kB: ')
    return done.returncode, done.stdout, err, int(peak) / 1024


def test_bad_ones_are_named_and_good_ones_answered(undisturbed, tmp_path):
    for name, make in (GOOD | BAD).items():
        make(tmp_path / name)
    files = [tmp_path / name for name in sorted(GOOD | BAD)] + [tmp_path / 'missing.png']
    code, out, err, megabytes = predict(undisturbed, *files)
    assert code == 3 and 'Traceback' not in out + err
    assert [line.partition(':')[0] for line in out.splitlines()] == [str(tmp_path / name) for name in sorted(GOOD)]
    named = [line.split()[1] for line in err.splitlines() if line.startswith('error: ')]
    assert named == [str(tmp_path / name) for name in sorted(BAD)] + [str(tmp_path / 'missing.png')]
    assert megabytes < 1500


@pytest.mark.parametrize(
    ('mode', 'kind'),
    [(mode, 'png') for mode in ('L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')]
    + [('L', 'jpg'), ('RGB', 'jpg'), ('CMYK', 'jpg'), ('P', 'gif'), ('CMYK', 'tiff')],
)
def test_the_largest_image_allowed_takes_less_than_1500_megabytes(mode, kind, undisturbed, tmp_path):
    side, path = int(Image.MAX_IMAGE_PIXELS**0.5), tmp_path / f'large.{kind}'
    image = Image.new('RGB', (side, side)).convert('P') if mode == 'P' else Image.new(mode, (side, side))
    image.save(path, **{'transparency': 0} if mode == 'P' else {}, **{'compress_level': 1} if kind == 'png' else {})
    del image
    code, out, err, megabytes = predict(undisturbed, path)
    assert code == 0 and out.count('%') == 3, err
    assert megabytes < 1500, f'{megabytes:.0f} MB'
    print(f'{mode} {kind}: {megabytes:.0f} MB')
