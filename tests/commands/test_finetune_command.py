"""Fine-tuning as a user does it: from a run folder, by flags alone."""

import json

import pytest
from commands_support import TINY, error_line, run

FROM = ('--config.dataset=synthetic_digits', '--config.batch_size=128', '--config.num_epochs=2')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    run('train.py', *TINY, '--config.num_epochs=1', f'--workdir={folder}')
    return folder


def tune(trained, workdir, *flags, **options):
    return run('train.py', *TINY, *FROM, f'--config.init_from={trained}', f'--workdir={workdir}', *flags, **options)


@pytest.mark.slow
def test_a_run_is_fine_tuned_and_continued_when_the_first_has_gone(trained, tmp_path):
    flags = '--config.init_head=new', '--config.freeze=backbone', '--config.unfreeze_epochs=1,'
    done = tune(trained, tmp_path / 'run', *flags, RESNET_JAX_FAILPOINT='compiled:1:kill', code=-9)
    assert 'The head is new: the weights have 10 classes (0, 1, 2, 3, 4, ...)' in done.stdout
    moved = trained.rename(tmp_path / 'elsewhere')
    try:
        done = tune(trained, tmp_path / 'run', *flags)
    finally:
        moved.rename(trained)
    assert 'Continuing' in done.stdout and 'From epoch 1 on all parameters train.' in done.stdout
    assert json.loads((tmp_path / 'run' / 'result.json').read_text())['epoch'] == 2
    done = run('train.py', f'--workdir={tmp_path / "run"}', '--config.num_epochs=3', '--extend')
    assert 'Epoch 3: ' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flag', 'code', 'text'),
    [
        ('--config.freeze=layr1_0', 2, "freeze has 'layr1_0', which matches no layer; did you mean 'layer1_0'?"),
        ('--config.model_kwargs.num_filters=6', 3, 'does not fit the network'),
        ('--config.unfreeze_epochs=3,2', 2, 'expected increasing epochs'),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(trained, tmp_path, flag, code, text):
    assert text in error_line(tune(trained, tmp_path / 'run', flag, code=code))
    assert not (tmp_path / 'run').exists()


def test_weights_that_are_not_there(tmp_path):
    line = error_line(tune(tmp_path / 'nowhere', tmp_path / 'run', code=3))
    assert 'there is no such folder or file; expected a run folder, weights as .pth' in line
    assert not (tmp_path / 'run').exists()
