import json
import shutil

import jax
import numpy as np
import pytest
from commands_support import TINY, error_line, run

from resnet_jax.config import TrainConfig
from resnet_jax.data import dataset_info
from resnet_jax.errors import ConfigError, DivergedError
from resnet_jax.runs import checkpoint
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.seeds import train_seeds

pytestmark = pytest.mark.usefixtures('quick_compilation')
CONFIG = TrainConfig(
    dataset='synthetic_digits',
    model='resnet8',
    model_kwargs={'num_filters': 4, 'stage_sizes': (1,)},
    batch_size=128,
    crop_padding=1,
    num_epochs=2,
    warmup_epochs=0.0,
    log_every=3,
    ema_decay=0.9,
    seed=5,
)
SEEDS = (5, 6, 7)


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp('together')
    return folder, train_seeds(CONFIG, folder, len(SEEDS), together=True)


def arrays(folder, step):
    """The bytes of every array of a checkpoint."""
    shapes = jax.eval_shape(create_experiment(CONFIG, dataset_info(CONFIG.dataset)).create_state)
    state = checkpoint.restore(folder / 'checkpoints' / str(step), shapes)
    return {name: leaf.tobytes() for name, leaf in checkpoint.leaves_by_name(state).items()}


@pytest.mark.slow
def test_runs_together_are_those_alone(together, tmp_path):
    folder, results = together
    alone = train_seeds(CONFIG, tmp_path, 2, together=False)
    for ours, theirs in zip(results, alone, strict=False):
        assert [(row['step'], row['split']) for row in ours.history] == [(row['step'], row['split']) for row in theirs.history]
        for name in ('loss', 'grad_norm', 'ema_loss'):
            values = [[row[name] for row in done.history if name in row] for done in (ours, theirs)]
            np.testing.assert_allclose(*values, rtol=1e-3)
    assert len({row['loss'] for done in results for row in done.history[:1]}) == len(SEEDS)  # they differ from each other
    for seed in SEEDS:
        files = folder / f'seed{seed}'
        assert json.loads((files / 'config.json').read_text())['seed'] == seed
        log = (files / 'run.log').read_text()
        assert log.count('Test accuracy') == 1 and (files / 'report.html').is_file()  # no line of the others


def test_a_run_that_is_behind_catches_up_to_the_bit(together, tmp_path):
    """As after a kill: one run is finished, one has its first checkpoint, one has none."""
    before, _ = together
    folder = shutil.copytree(before, tmp_path / 'runs')
    (folder / 'seed6' / 'result.json').unlink()
    shutil.rmtree(folder / 'seed6' / 'checkpoints' / '22')
    shutil.rmtree(folder / 'seed7')
    again = train_seeds(CONFIG, folder, len(SEEDS), together=True)
    for seed, done in zip(SEEDS, again, strict=True):
        ours, theirs = folder / f'seed{seed}', before / f'seed{seed}'
        assert (ours / 'metrics.jsonl').read_bytes() == (theirs / 'metrics.jsonl').read_bytes()
        assert done.result['step'] == 22 and arrays(ours, 22) == arrays(theirs, 22)


@pytest.mark.slow
def test_an_error_of_one_run_ends_that_run_alone(tmp_path):
    train_seeds(CONFIG.replace(learning_rate=0.05, seed=6), tmp_path, 1)
    with pytest.raises(ConfigError, match=r'seed6 holds a run of another config \(learning_rate: 0.05 -> 0.1\)'):
        train_seeds(CONFIG, tmp_path, 2, together=True)
    assert (tmp_path / 'seed5' / 'result.json').is_file()


def test_one_that_diverges_does_not_keep_the_next_from_running(tmp_path):
    with pytest.raises(DivergedError, match='iteration'):
        train_seeds(CONFIG.replace(learning_rate=1e30, num_epochs=1), tmp_path, 2)
    assert all((tmp_path / name / 'failed.json').is_file() for name in ('seed5', 'seed6'))


def test_what_cannot_be_trained_together_is_named(tmp_path):
    with pytest.raises(ConfigError, match='cannot be trained together with validation_size'):
        train_seeds(CONFIG.replace(validation_size=100), tmp_path, 2, together=True)
    for count in (0, 10**8):
        with pytest.raises(ConfigError, match=f'^{count} seeds; expected at least 1 and at most 10000$'):
            train_seeds(CONFIG, tmp_path, count)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_trains_each_seed_in_a_folder_of_its_own(tmp_path):
    runs = tmp_path / 'runs'
    flags = [*TINY, '--config.num_epochs=1', f'--workdir={runs}']
    done = run('train.py', *flags, '--seeds=2')
    accuracies = [json.loads((runs / f'seed{i}' / 'result.json').read_text())['accuracy'] for i in (0, 1)]
    assert f'2 seeds in {runs}: accuracy {100 * np.mean(accuracies):.2f} ±' in done.stdout
    assert 'finished; nothing to do' in run('train.py', *flags, '--seeds=2').stdout
    assert 'seeds' in error_line(run('train.py', *flags, '--seeds=-1', code=2))
