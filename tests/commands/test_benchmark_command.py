import json

import pytest
from commands_support import error_line, run

TINY = '--config=configs/resnet20.py', '--config.model=resnet8', '--config.batch_size=8', '--config.eval_batch_size=8'


def test_both_steps_are_timed_beside_torch(tmp_path):
    path = tmp_path / 'result.json'
    out = run('benchmark.py', *TINY, '--peer=torch', '--rounds=2', '--seconds=0.2', f'--json={path}').stdout
    assert 'synthetic' in out and 'torch' in out
    (row,) = json.loads(path.read_text())
    assert row['dataset'] == 'synthetic_cifar10' and row['facts']['parameters'] == 75290
    for step in ('train', 'eval'):
        ours, theirs, ratio = row[step]['images_per_second'], row[step]['torch']['images_per_second'], row[step]['ratio']
        assert ours['n'] == theirs['n'] and 0 < ours['low'] <= ours['median'] <= ours['high']
        assert ours['low'] / theirs['high'] <= ratio['median'] <= ours['high'] / theirs['low']
        assert 0 < row[step]['share_of_matrix_product'] < 1


@pytest.mark.parametrize('flags', [['--peer=tensorflow'], ['--devices=0'], ['--rounds=0'], ['--config.batch_size=-1']])
def test_bad_input_is_one_line(flags):
    error_line(run('benchmark.py', *TINY, *flags, code=2))
