import json

import numpy as np
import pytest
from commands_support import error_line, run

TINY = (
    '--config=configs/speedrun_cpu.py',
    '--config.dataset=digits',
    '--config.model_kwargs.widths=12,8',  # two halvings of 8x8 pixels
    '--config.batch_size=128',
    '--config.num_epochs=4',
    '--config.lookahead_sync_period=5',
)


@pytest.mark.slow
def test_the_recipe_trains_on_two_devices_and_its_weights_go_to_pytorch(tmp_path):
    import torch

    workdir = tmp_path / 'run'
    done = run('train.py', *TINY, f'--workdir={workdir}', devices=2)
    assert 'speedrun94, ' in done.stdout and '2 cpu device(s)' in done.stdout
    result = json.loads((workdir / 'result.json').read_text())
    assert result['step'] == 44 and result['accuracy'] > 0.3
    run('convert.py', f'--workdir={workdir}', '--to=torch', f'--out={tmp_path / "weights.pth"}')
    weights = torch.load(tmp_path / 'weights.pth', weights_only=True)
    kernel = weights['whiten.weight'].numpy()
    assert kernel.shape == (8, 1, 2, 2)
    np.testing.assert_array_equal(kernel[:4], -kernel[4:])
    assert 'layer2.bn2.running_mean' in weights and 'layer2.bn2.weight' not in weights


def test_images_too_small_for_the_groups_are_an_error(tmp_path):
    done = run('train.py', '--config=configs/speedrun94.py', '--config.dataset=digits', f'--workdir={tmp_path}', code=2)
    assert error_line(done) == 'error: batch_size 1536 does not divide over 1 device and 1437 training examples; expected ' + (
        '--config.batch_size=1437'
    )
    done = run(
        'train.py',
        '--config=configs/speedrun94.py',
        '--config.dataset=digits',
        '--config.batch_size=512',
        f'--workdir={tmp_path}',
        code=2,
    )
    assert 'images of 8x8 pixels are too small; need at least 9x9' in error_line(done)
