import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache

import resnet_jax.data
from resnet_jax.config import TrainConfig
from resnet_jax.data import LazyDataset
from resnet_jax.data.order import epoch_order
from resnet_jax.errors import ConfigError, DivergedError, InputFileError, Interrupted, ResourceError
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.runs import checkpoint, log
from resnet_jax.runs.checksums import CHECKSUMS, checksums_text
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.metadata import read_metadata
from resnet_jax.runtime import dispatch
from resnet_jax.training import loop, program, step, trainer
from resnet_jax.training.api import Callback
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loop import train_and_evaluate

TRAIN, VALIDATION, TEST = 60, 12, 19  # examples; a batch of 16 makes 3 steps an epoch, with the validation split or without
STRIPES = tiny.dataset(TRAIN, TEST)


def config(**overrides):
    """Four epochs with as much as possible that a checkpoint must hold: momentum, EMA, a proxy, metrics that wait for their
    row; and with a flip that depends on the epoch."""
    everything = {
        'ema_decay': 0.5,
        'alternating_flip': True,
        'model': 'tiny',
        'model_kwargs': {},
        'proxy_model': 'tiny',
        'proxy_update_every': 2,
        'log_every': 5,
        'validation_size': VALIDATION,
        'eval_batch_size': 8,
        'learning_rate': 0.02,
    }
    return tiny.config(**{**everything, **overrides})


def replace_what_takes_long(patch):
    """The data set by stripes and the network by a linear layer with BatchNorm and dropout, which compile sooner."""
    tiny.register(patch, STRIPES)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    replace_what_takes_long(monkeypatch)
    monkeypatch.setattr(trainer, 'plot_so_far', lambda folder: None)


@pytest.fixture(autouse=True, scope='module')
def compile_each_program_once(tmp_path_factory):
    """The runs below share a few programs, fully optimised as users have them; JAX's cache on disk keeps them."""
    changes = {
        'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('programs')),
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    before = {name: jax.config.values[name] for name in changes}
    for values in (changes, before):
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)
        if values is changes:
            yield


def rows(workdir, split=None):
    logged = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [row for row in logged if split in (None, row['split'])]


def state_at(workdir, step=None):
    """The state in a checkpoint, the latest one if no step is given."""
    path = workdir / 'checkpoints' / str(step) if step else checkpoint.latest(workdir / 'checkpoints')
    return checkpoint.restore(path, jax.eval_shape(create().create_state))


def create():
    return create_experiment(TrainConfig.from_mapping(config()), STRIPES.info)


def assert_same_run(workdir, result, expected_workdir, expected_result):
    """Bitwise, in parameters, statistics, optimizer state, averages and metrics file."""
    jax.tree.map(np.testing.assert_array_equal, state_at(workdir), state_at(expected_workdir))
    assert (workdir / 'metrics.jsonl').read_bytes() == (expected_workdir / 'metrics.jsonl').read_bytes()
    assert {**result, 'seconds': 0} == {**expected_result, 'seconds': 0}


class AtStep(Callback):
    """Does something as soon as a step is done on the device and not yet logged."""

    def __init__(self, number, action):
        self.number, self.action = number, action

    def on_step(self, step, metrics):
        if step == self.number:
            self.action()


def crash():
    raise RuntimeError('power cut')


def train(*args, **options):
    return train_and_evaluate(*args, **options).result


@pytest.fixture
def one_step_per_dispatch(monkeypatch):
    monkeypatch.setattr(dispatch.Pace, 'size', lambda pace, remaining: 1)


@dataclasses.dataclass
class Whole:
    """A run without interruptions."""

    workdir: object
    result: dict
    traces: int
    compiled: int
    evaluated: list
    epochs: list


@pytest.fixture(scope='module')
def whole(tmp_path_factory, compile_each_program_once):
    workdir, traces, compiled, evaluated, epochs = tmp_path_factory.mktemp('whole'), [], [], [], []
    train_step, compile_parallel, evaluate = step.train_step, program.compile_parallel, Evaluator.__call__

    def counted_step(*args, **kwargs):
        traces.append(args)
        return train_step(*args, **kwargs)

    def counted_compile(run, *arguments, **options):
        compiled.append(run)
        return compile_parallel(run, *arguments, **options)

    def counted_evaluation(evaluator, *args):
        metrics = evaluate(evaluator, *args)
        evaluated.append(metrics['count'])
        return metrics

    def noted_order(seed, epoch, examples, batch_size):
        epochs.append((seed, epoch, examples, batch_size))
        return epoch_order(seed, epoch, examples, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        replace_what_takes_long(patch)
        patch.setattr(program, 'train_step', counted_step)
        patch.setattr(program, 'compile_parallel', counted_compile)
        patch.setattr(program, 'epoch_order', noted_order)
        patch.setattr(Evaluator, '__call__', counted_evaluation)
        result = train(config(), workdir)
    return Whole(workdir, result, len(traces), len(compiled), evaluated, epochs)


def test_a_fast_epoch_is_one_dispatch_and_its_metrics_are_fetched_once(monkeypatch, tmp_path):
    counts, fetched, compile_parallel, device_get = [], [], program.compile_parallel, jax.device_get

    def counted_compile(run, *arguments, **options):
        compiled = compile_parallel(run, *arguments, **options)

        def counted(*args):
            counts.append(int(args[-1]))
            return compiled(*args)

        return counted

    def counted_get(tree):
        if isinstance(tree, dict) and 'grad_norm' in tree:
            fetched.append(len(tree['grad_norm']))
        return device_get(tree)

    monkeypatch.setattr(program, 'compile_parallel', counted_compile)
    monkeypatch.setattr(jax, 'device_get', counted_get)
    monkeypatch.setattr(log, 'Pace', functools.partial(log.Pace, seconds=1e6))  # a fast device
    train(config(), tmp_path)
    assert counts == [1, 2, 3, 3, 3] and len(fetched) == len(counts)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the whole run's folder, as if it had ended right after its last checkpoint."""
    workdir = shutil.copytree(whole.workdir, tmp_path / 'copy')
    (workdir / 'result.json').unlink()
    return workdir


def test_what_a_run_leaves(whole):
    names = {path.name for path in whole.workdir.iterdir() if not path.name.startswith('.')}
    assert names == {
        'checkpoints',
        'config.json',
        'environment.json',
        'evaluation.json',
        'memory.json',
        'metrics.jsonl',
        'model.json',
        'plots',
        'predictions.npz',
        'report.html',
        'result.json',
        'run.log',
        'samples.npz',
        'tensorboard',
        'timing.jsonl',
    }
    assert json.loads((whole.workdir / 'result.json').read_text()) == whole.result
    assert json.loads((whole.workdir / 'config.json').read_text()) == TrainConfig.from_mapping(config()).to_dict()
    assert (whole.workdir / 'plots' / 'training.png').stat().st_size > 1000
    first, last = (state_at(whole.workdir, step).proxy for step in (9, 12))
    assert first.keys() == {'params', 'batch_stats', 'opt_state'}
    assert not np.array_equal(first['params']['fc']['kernel'], last['params']['fc']['kernel'])
    for path in (whole.workdir / 'checkpoints').iterdir():
        checkpoint.verify(path)
        metadata = read_metadata(path)
        assert metadata.config == TrainConfig.from_mapping(config()) and metadata.dataset['name'] == 'stripes'


def test_the_step_is_traced_and_compiled_once_in_a_run(whole):
    assert whole.compiled == 1
    assert 1 <= whole.traces <= 2  # within its one trace, JAX may look twice at the body of the loop


def test_every_epoch_has_an_order_of_its_own(whole):
    assert whole.epochs == [(0, epoch, TRAIN - VALIDATION, 16) for epoch in range(4)]


def test_rows_come_every_log_every_steps_and_at_the_end_of_epochs(whole):
    assert [row['step'] for row in rows(whole.workdir, 'train')] == [5, 10, 12]
    assert [row['step'] for row in rows(whole.workdir, 'validation')] == [3, 6, 9, 12]
    train, validation = rows(whole.workdir, 'train')[0], rows(whole.workdir, 'validation')[0]
    metrics = {'loss', 'accuracy', 'grad_norm', 'proxy_loss', 'learning_rate', 'selected_fraction'}
    assert train.keys() == {'step', 'epoch', 'split', *metrics} and train['selected_fraction'] == 0.5
    assert validation.keys() == {'step', 'epoch', 'split', 'loss', 'accuracy', 'count', 'ema_loss', 'ema_accuracy'}
    assert train['epoch'] == 5 / 3 and validation['epoch'] == 1.0 and validation['count'] == VALIDATION


def test_the_learning_rate_of_a_row_is_that_of_its_last_step(whole):
    schedule = create().schedule
    assert [row['learning_rate'] for row in rows(whole.workdir, 'train')] == [float(schedule(step)) for step in (4, 9, 11)]


def test_the_log_is_as_the_papers_was(whole):
    log = (whole.workdir / 'run.log').read_text()
    assert 'Iteration 5 of 12, loss ' in log and 'Iteration 10 of 12, loss ' in log
    assert 'stripes: 48 training images, 12 held out; 4 epochs of 3 iterations, batch 16; 4 cpu device(s)' in log
    assert f'Test accuracy {100 * whole.result["accuracy"]:.2f} %' in log


def test_the_test_set_is_evaluated_once_and_for_the_best_epoch_on_validation(whole):
    assert whole.evaluated == 4 * [VALIDATION, VALIDATION] + [TEST, TEST]  # parameters, and their averages
    validation = rows(whole.workdir, 'validation')
    best = max(validation, key=lambda row: row['accuracy'])  # the first of equals
    assert whole.result['selected'] == 'validation' and whole.result['step'] == best['step']
    (test,) = rows(whole.workdir, 'test')
    assert test['step'] == best['step'] and test['accuracy'] == whole.result['accuracy']
    state = state_at(whole.workdir, best['step'])
    again = Evaluator(create().logits_fn, STRIPES.test, batch_size=8, num_classes=3)
    for variables, prefix in ((state.variables, ''), (state.ema, 'ema_')):
        metrics = again(variables)
        assert whole.result[f'{prefix}accuracy'] == metrics['accuracy']
        assert whole.result[f'{prefix}loss'] == metrics['loss']


@pytest.mark.slow
def test_a_result_with_averaged_views_says_so_wherever_it_is_written(tmp_path):
    result = train(config(tta='mirror', num_epochs=2, validation_size=0), tmp_path)
    state, logits = state_at(tmp_path), 0
    for image in (STRIPES.test.image, STRIPES.test.image[:, :, ::-1]):
        logits += np.asarray(tiny.WithBatchNorm().apply(state.variables, (image / 255 - 0.3) / 0.2, train=False)) / 2
    assert result['accuracy'] == (logits.argmax(1) == STRIPES.test.label).mean()
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(TEST), STRIPES.test.label]
    assert result['loss'] == pytest.approx(loss.mean(), rel=1e-4)
    logged = json.loads((tmp_path / 'evaluation.json').read_text())
    assert logged['accuracy'] == result['accuracy'] and logged['loss'] == pytest.approx(result['loss'], rel=1e-4)
    assert {logged['tta'], result['tta'], *(row['tta'] for row in rows(tmp_path, 'test'))} == {'mirror'}
    log = (tmp_path / 'run.log').read_text()
    for line in ('Epoch 2: train loss .*; test loss .*', 'Test accuracy .*'):
        assert re.search(line + r', logits averaged over views \(mirror\)$', log, re.M)
    assert '(views averaged: mirror)' in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize(('number', 'stop'), [(signal.SIGTERM, 6), pytest.param(signal.SIGINT, 7, marks=pytest.mark.slow)])
def test_stopped_and_resumed_is_bitwise_the_same_as_never_stopped(whole, tmp_path, monkeypatch, number, stop):
    """At the end of an epoch and within one; the whole run takes many steps per dispatch, this one takes one."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch.Pace, 'size', lambda pace, remaining: 1)
        with pytest.raises(Interrupted) as info:
            train(config(), tmp_path, callbacks=[AtStep(stop, lambda: os.kill(os.getpid(), number))])
    assert info.value.number == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert checkpoint.latest(tmp_path / 'checkpoints').name == str(stop)
    assert not (tmp_path / 'result.json').exists() and rows(tmp_path)[-1]['step'] <= stop
    result = train(config(), tmp_path)
    assert_same_run(tmp_path, result, whole.workdir, whole.result)
    assert f'after iteration {stop}' in (tmp_path / 'run.log').read_text()


def test_a_crash_is_repeated_from_the_last_checkpoint(whole, tmp_path):
    """It lost two steps after iteration 9, and had already written the row of iteration 10."""
    with pytest.raises(RuntimeError, match='power cut'):
        train(config(), tmp_path, callbacks=[AtStep(11, crash)])
    assert rows(tmp_path)[-1]['step'] == 10 and checkpoint.latest(tmp_path / 'checkpoints').name == '9'
    result = train(config(), tmp_path)
    assert_same_run(tmp_path, result, whole.workdir, whole.result)


@pytest.mark.slow
def test_evaluation_by_iterations_and_gradient_norms_go_on_after_an_interruption(tmp_path):
    changes = {'eval_every_steps': 2, 'log_gradient_norms': True, 'ema_decay': 0.0}
    result = train(config(**changes), tmp_path / 'whole')
    assert [row['step'] for row in rows(tmp_path / 'whole', 'validation')] == [2, 4, 6, 8, 10, 12]
    norms = {row['step']: row['norms'] for row in rows(tmp_path / 'whole', 'gradients')}
    assert list(norms) == [1, 5, 10, 12] and all(row.keys() == {'fc'} and row['fc'] > 0 for row in norms.values())
    best = max(rows(tmp_path / 'whole', 'validation'), key=lambda row: row['accuracy'])  # the first of them
    assert (result['step'], result['epoch']) == (best['step'], -(-best['step'] // 3))
    with pytest.raises(RuntimeError, match='power cut'):
        train(config(**changes), tmp_path / 'parts', callbacks=[AtStep(8, crash)])
    again = train(config(**changes), tmp_path / 'parts')
    assert (tmp_path / 'parts' / 'metrics.jsonl').read_bytes() == (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
    assert {**again, 'seconds': 0} == {**result, 'seconds': 0}


def test_parameters_that_exceed_the_memory_are_told_before_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setattr('resnet_jax.runtime.memory.available_bytes', lambda: 1000)
    with pytest.raises(ResourceError, match=r'out of device memory: the parameters of tiny, .* 0\.0 GiB are free'):
        train(config(), tmp_path)
    assert not (tmp_path / 'checkpoints').exists() and not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.slow
def test_a_crash_before_the_first_checkpoint_starts_over(whole, tmp_path):
    with pytest.raises(RuntimeError, match='power cut'):
        train(config(log_every=1), tmp_path, callbacks=[AtStep(2, crash)])  # which leaves a row
    assert len(rows(tmp_path)) == 1
    result = train(config(), tmp_path)
    assert_same_run(tmp_path, result, whole.workdir, whole.result)


def test_a_crash_after_the_last_checkpoint_only_lacks_the_result(whole, copy):
    class NoStep(Callback):
        def on_step(self, step, metrics):
            pytest.fail(f'step {step} was trained again')

    result = train(config(), copy, callbacks=[NoStep()])
    assert_same_run(copy, result, whole.workdir, whole.result)


def test_a_run_of_a_version_without_a_field_is_continued_with_its_default(whole, copy):
    def forget(path, *keys):
        content = json.loads(path.read_text())
        values = content[keys[0]] if keys else content
        del values['clip_norm'], values['muon_steps']
        path.write_text(json.dumps(content))

    forget(copy / 'config.json')
    shutil.rmtree(copy / 'checkpoints' / '12')
    last = copy / 'checkpoints' / '9'
    forget(last / 'metadata.json', 'config')
    (last / CHECKSUMS).write_text(checksums_text(last))
    result = train(config(), copy)
    assert_same_run(copy, result, whole.workdir, whole.result)
    assert 'after iteration 9' in (copy / 'run.log').read_text()
    assert json.loads((copy / 'config.json').read_text()) == TrainConfig.from_mapping(config()).to_dict()


@pytest.mark.slow
def test_another_learning_rate_from_a_checkpoint_on_is_recorded(copy, monkeypatch):
    monkeypatch.undo()
    tiny.register(monkeypatch, STRIPES)
    shutil.rmtree(copy / 'checkpoints' / '12')
    changed = config(learning_rate=0.01, schedule='constant')
    result = train(changed, copy, allow_changes=True)
    assert result['split'] == 'test'
    fields = {'learning_rate': [0.02, 0.01], 'schedule': ['cosine', 'constant']}
    assert json.loads((copy / 'changes.json').read_text()) == [{'step': 9, 'fields': fields}]
    assert [row['learning_rate'] for row in rows(copy, 'train')][-2:] == pytest.approx([0.01, 0.01])
    assert 'learning_rate: 0.02 -> 0.01' in (copy / 'run.log').read_text()
    last = read_metadata(copy / 'checkpoints' / '12')
    assert last.config == TrainConfig.from_mapping(changed) and [change.step for change in last.progress.changes] == [9]
    assert train(changed, copy) == result  # and now this is the run's config


def test_callbacks_are_told_everything_in_order(whole, tmp_path):
    class Recorder(Callback):
        def __init__(self):
            self.steps, self.evaluations, self.checkpoints = [], [], []

        def on_step(self, step, metrics):
            self.steps.append((step, metrics))

        def on_evaluation(self, step, split, metrics):
            self.evaluations.append((step, split, metrics['accuracy']))

        def on_checkpoint(self, step, path):
            checkpoint.verify(path)
            self.checkpoints.append(step)

    first, second = Recorder(), Recorder()
    returned = train_and_evaluate(config(), tmp_path, callbacks=[first, second])
    assert [step for step, _ in first.steps] == list(range(1, 13)) and first.steps == second.steps
    means = [np.mean([metrics['loss'] for _, metrics in first.steps[a:b]]) for a, b in ((0, 5), (5, 10), (10, 12))]
    assert means == [row['loss'] for row in rows(whole.workdir, 'train')]
    assert first.steps[0][1].keys() == {'loss', 'accuracy', 'grad_norm', 'proxy_loss', 'learning_rate'}
    expected = [(row['step'], 'validation', row['accuracy']) for row in rows(whole.workdir, 'validation')]
    assert first.evaluations == expected and first.checkpoints == [3, 6, 9, 12]
    assert returned.history == rows(tmp_path) == rows(whole.workdir)
    best = state_at(tmp_path, returned.result['step'])
    jax.tree.map(np.testing.assert_array_equal, returned.classifier.variables, best.variables)
    assert returned.classifier.class_names == STRIPES.class_names


def test_the_callers_logging_signals_and_threads_are_as_before(tmp_path):
    package = logging.getLogger('resnet_jax')

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        threads = sorted(thread.name for thread in threading.enumerate())
        return package.level, package.propagate, list(package.handlers), handlers, sys.unraisablehook, threads

    before = state()
    train(config(), tmp_path / 'good')
    assert state() == before
    with pytest.raises(RuntimeError, match='power cut'):
        train(config(), tmp_path / 'bad', callbacks=[AtStep(2, crash)])
    assert state() == before


def test_a_finished_run_is_not_repeated(whole, monkeypatch):
    monkeypatch.setattr(loop, 'Trainer', None)
    monkeypatch.setattr(LazyDataset, 'dataset', property(lambda self: pytest.fail('the data were read')))
    before = {path: path.read_bytes() for path in whole.workdir.rglob('*') if path.is_file() and path.name != 'run.log'}
    again = train_and_evaluate(config(), whole.workdir)
    assert again.result == whole.result and again.history == rows(whole.workdir)
    assert {path: path.read_bytes() for path in before} == before
    log = (whole.workdir / 'run.log').read_text()
    assert 'is finished; nothing to do' in log and log.count('Test accuracy') >= 2


@pytest.mark.parametrize(('batch_size', 'told'), [(40, True), (16, False)])
def test_a_batch_that_leaves_out_much_of_the_data_is_told(batch_size, told, tmp_path, monkeypatch):
    """Of the 48 images a batch of 40 leaves out 8. It is told before anything compiles."""
    monkeypatch.setattr(program, 'compile_parallel', lambda *_, **options: crash())
    with pytest.raises(RuntimeError, match='power cut'):
        train_and_evaluate(config(num_epochs=1, warmup_epochs=0.0, batch_size=batch_size), tmp_path)
    text = 'Each epoch leaves out 8 of the 48 training images, which do not fill another batch of 40'
    assert (text in (tmp_path / 'run.log').read_text()) == told


@pytest.mark.slow
def test_a_data_set_that_was_registered_without_facts_is_loaded_once(tmp_path, monkeypatch):
    loads = []
    entry = resnet_jax.data._Entry(lambda options: loads.append(1) or STRIPES, None)
    monkeypatch.setitem(resnet_jax.data._DATASETS, 'stripes', entry)
    train_and_evaluate(config(num_epochs=1, warmup_epochs=0.0), tmp_path)
    assert loads == [1]


@pytest.mark.parametrize('left', ['folders', 'folder', 'nothing'])
def test_rows_without_a_checkpoint_are_not_trained_over(left, copy):
    """`rm -r checkpoints/*/*`, `rm -r checkpoints/*` and `rm -r checkpoints`."""
    (copy / 'result.json').unlink(missing_ok=True)
    before = (copy / 'metrics.jsonl').read_bytes()
    for path in (copy / 'checkpoints').iterdir():
        shutil.rmtree(path)
        if left == 'folders':
            path.mkdir()
    if left == 'nothing':
        (copy / 'checkpoints').rmdir()
    with pytest.raises(InputFileError, match=r'all checkpoints in .* are damaged|and no checkpoint to continue from'):
        train_and_evaluate(config(), copy)
    assert (copy / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
    'text', ['5', '[1]', '"x"', *(f'{{"checkpoint_every_epochs": {v}}}' for v in ('"x"', 'null', '[1]', '1e308'))]
)
def test_rows_without_a_checkpoint_or_a_config_are_not_trained_over(text, copy):
    shutil.rmtree(copy / 'checkpoints')
    (copy / 'config.json').write_text(text)
    before = (copy / 'metrics.jsonl').read_bytes()
    with pytest.raises(InputFileError, match=r'config\.json is not what a run writes'):
        train_and_evaluate(config(), copy)
    assert (copy / 'metrics.jsonl').read_bytes() == before


def test_another_config_is_refused(copy, whole):
    for workdir in (copy, whole.workdir):
        with pytest.raises(ConfigError, match=r'holds a run of another config \(learning_rate: 0.02 -> 0.3\)'):
            train(config(learning_rate=0.3), workdir)


def test_another_config_is_refused_without_the_old_config_json(copy):
    (copy / 'config.json').unlink()
    with pytest.raises(ConfigError, match=r'holds a run of another config \(learning_rate: 0.02 -> 0.3\)'):
        train(config(learning_rate=0.3), copy)


def test_another_config_is_refused_where_only_the_result_is_left(whole, tmp_path):
    for name in ('config.json', 'result.json'):
        shutil.copy(whole.workdir / name, tmp_path)
    with pytest.raises(ConfigError, match='holds a run of another config'):
        train(config(learning_rate=0.3), tmp_path)


def test_other_data_are_refused(copy, monkeypatch):
    other = dataclasses.replace(STRIPES, fingerprint='other', mean=(0.4,))
    tiny.register(monkeypatch, other)
    with pytest.raises(ConfigError, match=r'was trained on other data \(fingerprint, mean differ\)'):
        train(config(), copy)


def test_a_finished_run_that_other_data_cannot_extend_keeps_its_result(whole, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole.workdir, tmp_path / 'run')
    longer = config(num_epochs=5)
    tiny.register(monkeypatch, dataclasses.replace(STRIPES, fingerprint='other'))
    with pytest.raises(ConfigError, match=r'was trained on other data \(fingerprint differ\)'):
        train(longer, workdir, extend=True)
    assert train(config(), workdir) == whole.result


def test_the_same_data_under_another_name_go_on(copy, whole):
    shutil.rmtree(copy / 'checkpoints' / '12')
    moved = dataclasses.replace(STRIPES, name='moved')
    with pytest.raises(ConfigError, match=r"dataset: 'stripes' -> 'moved'\); continue with allow_changes"):
        train_and_evaluate(config(), copy, dataset=moved)
    result = train_and_evaluate(config(), copy, dataset=moved, allow_changes=True).result
    assert result['accuracy'] == whole.result['accuracy']
    assert read_metadata(copy / 'checkpoints' / '12').dataset['name'] == 'moved'


def damage(path):
    data = bytearray((path / 'metadata.json').read_bytes())
    data[len(data) // 2] ^= 1
    (path / 'metadata.json').write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_continued(whole, copy):
    damage(copy / 'checkpoints' / '12')
    result = train(config(), copy)
    assert (copy / 'checkpoints' / '12.damaged').is_dir()
    log = (copy / 'run.log').read_text()
    assert 'set aside as 12.damaged' in log and 'after iteration 9' in log
    assert_same_run(copy, result, whole.workdir, whole.result)


def test_damaged_checkpoints_are_no_reason_to_start_over(copy):
    for path in (copy / 'checkpoints').iterdir():
        damage(path)
    metrics = (copy / 'metrics.jsonl').read_bytes()
    for _ in range(2):
        with pytest.raises(InputFileError, match=r'all checkpoints .* are damaged'):
            train(config(), copy)
    assert (copy / 'metrics.jsonl').read_bytes() == metrics and not (copy / 'result.json').exists()


class Script:
    """In place of `Evaluator`: accuracies as a test wants them. `asked` holds (examples, the variables' first value)."""

    accuracies, asked, losses = (), [], None

    def __init__(self, logits_fn, split, **kwargs):
        self.size = len(split.label)

    def compile(self, variables):
        pass

    def close(self):
        pass

    def __call__(self, variables, progress=None):
        cls = type(self)
        progress(1, 1)
        accuracy = cls.accuracies[len(cls.asked)]
        cls.asked.append((self.size, np.asarray(variables['params']['fc']['kernel'])))
        loss = cls.losses[len(cls.asked) - 1] if cls.losses else 1.0
        return {'loss': loss, 'accuracy': accuracy, 'count': self.size, 'per_class_accuracy': [], 'confusion': None}


@pytest.fixture
def script(monkeypatch):
    """Lets a test prescribe what the evaluations find: the network's and its averages' in turn."""

    def prescribe(*accuracies, losses=None):
        # Averages get 0: they are evaluated beside the parameters and never decide.
        both = [value for accuracy in accuracies for value in (accuracy, 0.0)]
        chosen = type('Chosen', (Script,), {'accuracies': both, 'asked': [], 'losses': losses})
        monkeypatch.setattr(trainer, 'Evaluator', chosen)
        return chosen

    return prescribe


def test_with_validation_the_first_best_epoch_is_the_result_and_its_checkpoint_is_kept(script, tmp_path):
    asked = script(0.3, 0.8, 0.5, 0.8, 0.1).asked  # four epochs, then the test set
    result = train(config(), tmp_path)
    assert {**result, 'seconds': 0} == {
        'split': 'test', 'selected': 'validation', 'step': 6, 'epoch': 2, 'loss': 1.0, 'accuracy': 0.1, 'count': TEST,
        'tta': 'none', 'ema_loss': 1.0, 'ema_accuracy': 0.0, 'seconds': 0,
    }  # fmt: skip
    assert checkpoint.steps(tmp_path / 'checkpoints') == [6, 9, 12]
    assert [size for size, _ in asked] == 8 * [VALIDATION] + 2 * [TEST]
    best = state_at(tmp_path, 6)
    np.testing.assert_array_equal(asked[8][1], best.params['fc']['kernel'])
    np.testing.assert_array_equal(asked[9][1], best.ema['params']['fc']['kernel'])
    assert not np.array_equal(asked[8][1], asked[6][1])


def test_the_best_one_outlives_a_better_one_that_is_damaged(script, tmp_path):
    script(0.8, 0.5, 0.5, 0.9, 0.1)
    assert train(config(), tmp_path)['step'] == 12
    assert checkpoint.steps(tmp_path / 'checkpoints') == [3, 9, 12]
    damage(tmp_path / 'checkpoints' / '12')
    (tmp_path / 'result.json').unlink()
    script(0.6, 0.2)  # another machine rounds otherwise, and finds the last epoch worse than the first
    result = train(config(), tmp_path)
    assert (result['step'], result['accuracy']) == (3, 0.2)


@pytest.mark.slow
def test_a_crash_before_the_result_repeats_no_evaluation_of_the_last_epoch(script, tmp_path):
    script(0.3, 0.9, 0.5, 0.4)
    result = train(config(validation_size=0), tmp_path)
    (tmp_path / 'result.json').unlink()
    asked = script().asked
    assert {**train(config(validation_size=0), tmp_path), 'seconds': 0} == {**result, 'seconds': 0}
    assert asked == []


@pytest.mark.slow
def test_without_validation_the_last_epoch_is_the_result_never_the_best_on_test(script, tmp_path):
    asked = script(0.3, 0.9, 0.5, 0.4).asked
    result = train(config(validation_size=0), tmp_path)
    assert (result['selected'], result['epoch'], result['step'], result['accuracy']) == ('last', 4, 12, 0.4)
    assert [size for size, _ in asked] == 8 * [TEST]
    assert checkpoint.steps(tmp_path / 'checkpoints') == [9, 12]
    assert 'epoch 4 (the last)' in (tmp_path / 'run.log').read_text()


def test_the_last_epoch_is_always_evaluated_and_saved(script, tmp_path):
    saved, asked = [], script(0.9, 0.2, 0.7).asked

    class Saved(Callback):
        def on_checkpoint(self, step, path):
            checkpoint.verify(path)
            saved.append(step)

    result = train(config(eval_every_epochs=3, checkpoint_every_epochs=2), tmp_path, callbacks=[Saved()])
    assert [row['step'] for row in rows(tmp_path, 'validation')] == [9, 12]
    assert len(asked) == 6
    assert saved == [6, 9, 12]  # every second epoch, the best one, the last
    assert (result['epoch'], result['accuracy']) == (3, 0.7)


@pytest.mark.parametrize('text', ['{}', '[1]', '{"split": "test"}', '[' * 100_000], ids=len)
def test_a_result_that_is_none_is_told_and_stays(text, tmp_path):
    (tmp_path / 'result.json').write_text(text)
    with pytest.raises(InputFileError, match=r'result\.json is not'):
        train(config(), tmp_path)
    assert (tmp_path / 'result.json').read_text() == text


@pytest.mark.parametrize(('seconds', 'told'), [(1200.0, True), (600.0, False)])
def test_an_estimate_that_is_long_for_a_cpu_says_what_is_practical_there(seconds, told, tmp_path, caplog):
    """For 12 steps of so many seconds."""
    checked = TrainConfig.from_mapping(config())
    lines = log.RunLog(checked, RunFolder(tmp_path, checked), total_steps=12, steps_per_epoch=4)
    lines.pace.measured(1, seconds)
    with caplog.at_level('INFO'):
        lines.forecast(step=0)
    assert f'the training takes about {4 if told else 2}:00:00' in caplog.text
    assert ('d2l_resnet18 is practical' in caplog.text) == told


def strictly(line):
    def refuse(constant):
        raise AssertionError(f'{constant} in {line}')

    return json.loads(line, parse_constant=refuse)


def assert_nothing_but_numbers(workdir):
    """No NaN and no infinity in metrics or checkpoints, and no result."""
    for line in (workdir / 'metrics.jsonl').read_text().splitlines():
        strictly(line)
    for number in checkpoint.steps(workdir / 'checkpoints'):
        checkpoint.verify(workdir / 'checkpoints' / str(number))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state_at(workdir, number)))
    assert not (workdir / 'result.json').exists()


def test_divergence(tmp_path):
    for _ in range(2):  # and the second time it is not another thing
        with pytest.raises(
            DivergedError, match=r'^training diverged at iteration \d+: .*learning rate .*; lower learning_rate'
        ):
            train(config(learning_rate=1e20, log_every=1), tmp_path)
        assert_nothing_but_numbers(tmp_path)


@pytest.mark.parametrize('eval_every_epochs', [1, 4])
def test_an_update_that_diverges_after_a_finite_loss_is_not_saved(script, tmp_path, monkeypatch, eval_every_epochs):
    script(*5 * [0.5])
    train_step = step.train_step

    def diverging(state, *args, **kwargs):
        new, metrics = train_step(state, *args, **kwargs)
        nan = jnp.where(state.step == 5, jnp.nan, 0.0)  # in the last step of the second epoch
        return new.replace(params=jax.tree.map(lambda p: p + nan, new.params)), metrics

    monkeypatch.setattr(program, 'train_step', diverging)
    with pytest.raises(DivergedError, match='diverged at iteration 6: the parameters are no longer finite'):
        train(config(eval_every_epochs=eval_every_epochs), tmp_path)
    assert checkpoint.steps(tmp_path / 'checkpoints') == [3]
    assert_nothing_but_numbers(tmp_path)


def test_an_evaluation_that_diverges_is_not_written(script, tmp_path):
    script(0.5, 0.5, losses=[1.0, 1.0, float('nan'), 1.0])
    with pytest.raises(DivergedError, match='diverged at iteration 6: loss nan in the evaluation'):
        train(config(), tmp_path)
    assert [row['step'] for row in rows(tmp_path, 'validation')] == [3]
    assert_nothing_but_numbers(tmp_path)


def test_out_of_memory_names_what_saves_memory(tmp_path, monkeypatch):
    def exhausted(*_, **options):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.')

    monkeypatch.setattr(program, 'compile_parallel', exhausted)
    with pytest.raises(ResourceError, match=r'out of device memory at batch_size 16; .*gradient_accumulation_steps'):
        train(config(), tmp_path)


def test_other_errors_of_the_runtime_are_not_taken_for_it(tmp_path, monkeypatch):
    def internal(*_, **options):
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')

    monkeypatch.setattr(program, 'compile_parallel', internal)
    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
        train(config(), tmp_path)


@pytest.mark.slow
def test_real_digits_are_learned_by_a_real_network(tmp_path, monkeypatch, quick_compilation):
    monkeypatch.undo()
    changes = {'dataset': 'digits', 'batch_size': 32, 'learning_rate': 0.1, 'crop_padding': 0, 'flip': False}
    network = {'model_kwargs': {'stage_sizes': (1,), 'num_filters': 16}, 'num_epochs': 5}
    result = train(tiny.config(**changes, **network, eval_batch_size=100, log_every=44), tmp_path)
    assert result['count'] == 360 and result['epoch'] == 5
    losses = [row['loss'] for row in rows(tmp_path, 'train')]
    assert losses == sorted(losses, reverse=True) and len(losses) == 5
    assert result['accuracy'] > 0.7  # 0.1 is chance
