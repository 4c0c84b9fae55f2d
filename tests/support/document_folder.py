"""A folder with the files that the documents take for granted."""

import numpy as np
from document_blocks import ROOT, blocks
from PIL import Image


def write_files(folder):
    """Writes the pictures, and the files that blocks are of: `# mine.py`."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 6), ('val', 2)):
        for name in ('cat', 'dog'):
            (folder / 'pictures' / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (24 + i, 30, 3), np.uint8))
                image.save(folder / 'pictures' / split / name / f'{i}.jpg')
    for name in ('cat.jpg', 'dog.png', 'new.jpg'):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).save(folder / 'digit.png')
    for block in blocks('python'):
        if block.file:
            with (folder / block.file).open('a') as file:
                file.write(block.text)
    for name in ('bin', 'configs', 'examples', 'docs', 'tests'):
        (folder / name).symlink_to(ROOT / name)
