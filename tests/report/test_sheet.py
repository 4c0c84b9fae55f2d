import numpy as np
import pytest
from PIL import Image
from run_files import write_folder

from resnet_jax.report import curves
from resnet_jax.report.sheet import write_sheet
from resnet_jax.runs import reader
from resnet_jax.runs.reader import read_run


@pytest.mark.parametrize(('side', 'channels', 'shown'), [(8, 1, 64), (32, 3, 64), (224, 3, 96)])
def test_images_stand_in_rows_and_columns(tmp_path, side, channels, shown):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40
    images = np.broadcast_to(values, (2, 3, side, side, channels)).astype(np.uint8)
    sheet = np.asarray(Image.open(write_sheet(images, tmp_path / 'plots' / 'sheet.png')))
    assert sheet.shape == (2 * (shown + 4) + 4, 3 * (shown + 4) + 8, 3)
    for row in range(2):
        for column in range(3):
            y, x = 4 + row * (shown + 4), 4 + column * (shown + 4) + 4 * (column > 0)
            assert (sheet[y : y + shown, x : x + shown] == values[row, column]).all()
    assert (sheet[:4] == 255).all()  # the rest is white


def test_the_report_shows_the_sheet_of_a_run_and_none_that_is_damaged_or_huge(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / 'run')
    section = curves.augmentation([read_run(folder)])
    assert section.content.startswith('<img alt="augmented training images" src="data:image/png;base64,')
    sheet = folder / 'plots' / 'augmentation.png'
    whole = sheet.read_bytes()
    for damaged in (whole[:60], b'no picture', b''):
        sheet.write_bytes(damaged)
        assert read_run(folder).augmentation is None
    sheet.write_bytes(whole)
    monkeypatch.setattr(reader, '_LARGEST_SHEET', 20 * 30 - 1)
    assert curves.augmentation([read_run(folder)]) is None
