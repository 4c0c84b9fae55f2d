import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import on_devices as tiny_run
import optax
import pytest
import tiny
import torch

from resnet_jax.data.order import epoch_order
from resnet_jax.evaluation.step import eval_step
from resnet_jax.models import create_model
from resnet_jax.runtime.devices import AXIS, device_positions, replicate
from resnet_jax.training.loading import load_batch
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import kernel_paths, train_step

pytestmark = pytest.mark.usefixtures('quick_compilation')

IMAGES = np.random.default_rng(0).normal(size=(12, 2, 3, 1)).astype(np.float32)
LABELS = np.arange(12) % 3
KEY = jax.random.key(11)
PLAIN = optax.sgd(1.0)  # new parameters are the old ones minus the gradient


def one_hot(labels=LABELS):
    return {'image': IMAGES, 'label': np.eye(3, dtype=np.float32)[labels]}


def step_of(model, tx=PLAIN, **kwargs):
    """`train_step` of one device, compiled."""
    return jax.jit(functools.partial(train_step, model=model, tx=tx, axis_name=None, **kwargs))


@functools.cache
def linear_state(ema=False):
    return create_train_state(tiny.Linear(), PLAIN, IMAGES.shape[1:], 3, ema=ema)


def torch_linear(state, label, **loss_kwargs):
    """Returns loss, accuracy and gradients of the linear network as PyTorch computes them."""
    weight = torch.tensor(np.array(state.params['fc']['kernel']), requires_grad=True)
    bias = torch.tensor(np.array(state.params['fc']['bias']), requires_grad=True)
    logits = torch.tensor(IMAGES).flatten(1) @ weight + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(label), **loss_kwargs)
    loss.backward()
    hits = logits.argmax(1).numpy() == (label if label.ndim == 1 else label.argmax(1))
    return loss.item(), hits.mean(), {'kernel': weight.grad.numpy(), 'bias': bias.grad.numpy()}


def test_gradient_norms_of_layers_as_torch():
    state = linear_state()
    _, _, grads = torch_linear(state, LABELS)
    _, metrics = step_of(tiny.Linear(), per_layer_grad_norms=True)(state, one_hot(), KEY)
    assert kernel_paths(state.params) == ['fc']
    np.testing.assert_allclose(metrics['per_layer_grad_norms'], [np.linalg.norm(grads['kernel'])], rtol=1e-6)


def test_kernels_in_the_order_of_the_parameters():
    params = jax.eval_shape(functools.partial(create_model('resnet8').init, train=False), KEY, IMAGES)['params']
    blocks = [f'layer{stage}_0/conv{place}' for stage in (1, 2, 3) for place in (1, 2)]
    assert kernel_paths(params) == ['conv1', 'fc', *blocks]


def assert_step_is(state, batch, loss, accuracy, grads):
    new, metrics = step_of(tiny.Linear())(state, batch, KEY)
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-6)
    assert float(metrics['accuracy']) == pytest.approx(accuracy)
    for name, grad in grads.items():
        np.testing.assert_allclose(state.params['fc'][name] - new.params['fc'][name], grad, atol=1e-6)
    norm = np.sqrt(sum((grad**2).sum() for grad in grads.values()))
    np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-6)
    assert int(new.step) == 1


def test_loss_accuracy_and_gradient_as_torch():
    state = linear_state()
    assert_step_is(state, one_hot(), *torch_linear(state, LABELS))


def test_soft_labels_as_torch():
    label = np.random.default_rng(1).dirichlet([1.0] * 3, 12).astype(np.float32)
    state = linear_state()
    assert_step_is(state, {'image': IMAGES, 'label': label}, *torch_linear(state, label))


AUGMENTATION = ('crop_padding', 'crop_mode', 'flip', 'alternating_flip', 'brightness', 'contrast', 'cutout_size')
OPTIONS = ('num_classes', 'mean', 'std', 'dtype', 'steps_per_epoch', 'mixup_alpha', 'label_smoothing', *AUGMENTATION)
_load = jax.jit(load_batch, static_argnames=OPTIONS)


def loaded(positions=None, step=0, seed=0, batch_size=12, **kwargs):
    """A batch of the stripes through `load_batch`, in the order 20, 19, 18, ..."""
    split = tiny.split(24, 4)
    order = np.arange(20, 20 - batch_size, -1, dtype=np.int32)
    positions = np.arange(batch_size, dtype=np.int32) if positions is None else np.array(positions, np.int32)
    key = jax.random.key(seed)
    kwargs = {'num_classes': 3, 'mean': (0.3,), 'std': (0.2,), **kwargs}
    return jax.device_get(_load(split.image, split.label, order, positions, jnp.int32(step), key, **kwargs))


def test_label_smoothing_as_torch():
    split = tiny.split(24, 4)
    label = split.label[20:8:-1].astype(np.int64)
    batch = {'image': IMAGES, 'label': loaded(label_smoothing=0.1)['label']}
    state = linear_state()
    assert_step_is(state, batch, *torch_linear(state, label, label_smoothing=0.1))


def test_a_batch_is_the_examples_at_these_positions_of_the_order():
    split = tiny.split(24, 4)
    batch = loaded([3, 0])
    np.testing.assert_allclose(batch['image'], (split.image[[17, 20]] / 255 - 0.3) / 0.2, atol=1e-6)
    np.testing.assert_array_equal(batch['label'], np.eye(3)[split.label[[17, 20]]])


def test_augmentation_depends_on_seed_step_and_position_only():
    run = functools.partial(loaded, crop_padding=2, flip=True)
    batch = run()['image']
    np.testing.assert_array_equal(batch, run()['image'])
    np.testing.assert_array_equal(batch[[7, 2]], run([7, 2])['image'])  # wherever these two are computed
    assert not np.array_equal(batch, run(step=1)['image'])
    assert not np.array_equal(batch, run(seed=1)['image'])


def test_the_same_image_is_augmented_in_other_ways_at_other_positions():
    image = np.stack([IMAGES[0]] * 2).astype(np.uint8) + np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    run = functools.partial(_load, image, np.zeros(2, np.int32), np.zeros(30, np.int32), num_classes=3)
    batch = run(np.arange(30, dtype=np.int32), 0, KEY, mean=(0,), std=(1,), crop_padding=2)
    assert len({one.tobytes() for one in np.asarray(batch['image'])}) > 10


def test_alternating_flip_shows_both_sides_of_each_example_in_any_two_epochs():
    """Whatever its place in the epoch, and on whatever device: over the stripes, turned so that a flip shows."""
    image = np.swapaxes(tiny.split(24, 4).image, 1, 2)

    def epoch_of_images(epoch, parts):
        seen, order = {}, epoch_order(0, epoch, 24, 8)
        for step, row in enumerate(order):
            for positions in np.split(np.arange(8, dtype=np.int32), parts):
                arguments = (image, np.zeros(24, np.int32), row, positions, jnp.int32(3 * epoch + step), jax.random.key(0))
                options = {'num_classes': 3, 'mean': (0.0,), 'std': (1 / 255,), 'flip': True}
                batch = _load(*arguments, **options, alternating_flip=True, steps_per_epoch=3)
                seen.update(zip(row[positions].tolist(), np.asarray(batch['image']).round().astype(np.uint8), strict=True))
        return [seen[example] for example in range(24)]

    epochs = [epoch_of_images(epoch, parts=1 + epoch % 2) for epoch in range(4)]
    mirrored = [[np.array_equal(one, whole[:, ::-1]) for one, whole in zip(epoch, image, strict=True)] for epoch in epochs]
    assert 4 <= sum(mirrored[0]) <= 20
    for epoch, images in enumerate(epochs):
        for example, one in enumerate(images):
            np.testing.assert_array_equal(one, image[example, :, :: -1 if mirrored[0][example] ^ (epoch % 2) else 1])


def mixup_weight(batch, plain):
    """The weight of an example's own label, from a label pair that differs."""
    return batch['label'][0] @ plain['label'][0]


def test_mixup_mixes_each_example_with_the_opposite_one_in_images_and_labels():
    plain, batch = loaded(batch_size=11), loaded(batch_size=11, mixup_alpha=0.7)
    weight = mixup_weight(batch, plain)
    assert 0 < weight < 1
    for name in ('image', 'label'):
        expected = weight * plain[name] + (1 - weight) * plain[name][::-1]
        np.testing.assert_allclose(batch[name], expected, atol=1e-6)
    np.testing.assert_allclose(batch['label'].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(batch['image'][5], plain['image'][5], atol=1e-6)  # the middle one is its own partner
    assert len(np.unique(batch['label'].round(5))) > 2


@pytest.mark.slow
def test_mixup_mixes_images_that_are_augmented_as_their_own_positions_say():
    run = functools.partial(loaded, crop_padding=2, flip=True, label_smoothing=0.1)
    plain, batch = run(), run(mixup_alpha=0.7)
    weight = (batch['label'][0] - plain['label'][-1])[0] / (plain['label'][0] - plain['label'][-1])[0]
    np.testing.assert_allclose(batch['image'], weight * plain['image'] + (1 - weight) * plain['image'][::-1], atol=1e-5)
    np.testing.assert_allclose(batch['label'].sum(1), 1, atol=1e-6)


def test_mixup_weight_is_a_function_of_seed_and_step():
    weights = {}
    for step, seed in itertools.product((0, 1), (0, 1)):
        batch = loaded(step=step, seed=seed, mixup_alpha=0.7)
        weights[step, seed] = mixup_weight(batch, loaded())
        part = loaded([0], step=step, seed=seed, mixup_alpha=0.7)  # another device's part has the same weight
        np.testing.assert_allclose(part['label'], batch['label'][:1], atol=1e-6)
    assert len(set(weights.values())) == 4


def test_mixup_keeps_bfloat16():
    assert loaded(mixup_alpha=0.7, dtype=jnp.bfloat16)['image'].dtype == jnp.bfloat16


def test_accumulation_changes_nothing_without_batch_norm():
    """To float32 rounding: the gradient's parts are summed in another order."""
    state = create_train_state(tiny.Linear(), optax.adam(0.1), IMAGES.shape[1:], 3)
    whole, whole_metrics = step_of(tiny.Linear(), optax.adam(0.1))(state, one_hot(), KEY)
    for parts in (2, 3):
        new, metrics = step_of(tiny.Linear(), optax.adam(0.1), accumulation=parts)(state, one_hot(), KEY)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), new, whole)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), metrics, whole_metrics)


def test_accumulation_shows_batch_norm_one_part_at_a_time():
    state = create_train_state(tiny.WithBatchNorm(), PLAIN, IMAGES.shape[1:], 3)
    new, _ = step_of(tiny.WithBatchNorm(), accumulation=2)(state, one_hot(), KEY)
    flat = IMAGES.reshape(12, -1)
    mean, var = np.zeros(6), np.ones(6)
    for part in (flat[:6], flat[6:]):  # the module's momentum is 0.5
        mean, var = (mean + part.mean(0)) / 2, (var + part.var(0)) / 2
    np.testing.assert_allclose(new.batch_stats['bn']['mean'], mean, atol=1e-6)
    np.testing.assert_allclose(new.batch_stats['bn']['var'], var, atol=1e-6)


def test_accumulation_drops_other_units_in_each_part():
    """Of two equal halves of a batch."""
    half = jax.tree.map(lambda x: x[:2], one_hot())
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), half)
    model = tiny.WithBatchNorm(dropout=0.5)
    state = create_train_state(model, PLAIN, IMAGES.shape[1:], 3)
    run = step_of(model)
    losses = [run(state, half, jax.random.fold_in(KEY, part))[1]['loss'] for part in (0, 1)]
    _, metrics = step_of(model, accumulation=2)(state, twice, KEY)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(metrics['loss'], np.mean(losses), rtol=1e-6)


def test_ema_by_hand():
    """At first the smaller decay (1 + step) / (10 + step): 0.1 at step 0 and 0.18 at step 1, where 0.15 takes over."""
    state = create_train_state(tiny.WithBatchNorm(), optax.sgd(0.1), IMAGES.shape[1:], 3, ema=True)
    step = step_of(tiny.WithBatchNorm(), optax.sgd(0.1), ema_decay=0.15)
    expected = jax.device_get(state.variables)
    for decay in (0.1, 0.15, 0.15):
        state, _ = step(state, one_hot(), KEY)
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * np.asarray(new), expected, state.variables)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.ema, expected)
    assert not np.allclose(state.ema['params']['fc']['kernel'], state.params['fc']['kernel'], atol=1e-4)


def test_no_ema_leaves_what_there_is():
    state, _ = step_of(tiny.Linear())(linear_state(), one_hot(), KEY)
    assert state.ema == {}


class Logits(tiny.nn.Module):
    """The image is the logits."""

    def __call__(self, images, *, train):
        assert not train
        return images


def test_eval_step_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]], np.float32))
    batch = {'image': logits, 'label': np.array([0, 1, 2, 0]), 'mask': np.array([1, 1, 1, 0], np.float32)}
    sums = eval_step({}, batch, logits_fn=lambda variables, images: Logits().apply(variables, images, train=False))
    np.testing.assert_allclose(sums['loss'], -np.log(0.7 * 0.3 * 0.8), rtol=1e-6)
    assert sums['confusion'].dtype == jnp.int32
    assert sums['confusion'].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


# On several devices. conftest.py gives four; `on_devices` also runs the same on one and on two, each in a process.


def test_positions_are_consecutive_parts_of_the_global_batch():
    assert device_positions(8).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert device_positions(8).dtype == np.int32


@pytest.mark.parametrize('devices', [4, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_global_batch_gives_the_same_losses_and_update_on_any_number_of_devices(on_devices, devices):
    """After four steps with augmentation, mixup, momentum and EMA; cross-device BatchNorm. Tolerance: 1e-5 relative or 1e-6
    absolute, of values of about 0.1 (measured: 2e-7); sums over devices are rounded in another order."""
    one, many = on_devices(1), on_devices(devices)
    assert one.keys() == many.keys() and one['step'] == tiny_run.STEPS
    assert {'loss', 'accuracy', 'grad_norm', 'params/conv1/kernel', 'batch_stats/bn1/var', 'ema/params/fc/bias'} <= one.keys()
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_statistics_of_each_device_are_averaged_by_default():
    """With one axis in place of the devices: mean of the means, mean of the variances, and not the whole batch's variance."""
    model = tiny.WithBatchNorm()
    state = create_train_state(model, PLAIN, IMAGES.shape[1:], 3)
    parts = jax.tree.map(lambda x: x.reshape(4, 3, *x.shape[1:]), one_hot())
    run = jax.vmap(functools.partial(train_step, model=model, tx=PLAIN), in_axes=(None, 0, None), axis_name=AXIS)
    new, _ = run(state, parts, KEY)
    flat = IMAGES.reshape(4, 3, -1)
    for name, expected in (('mean', flat.mean((0, 1)) / 2), ('var', (1 + flat.var(1).mean(0)) / 2)):
        for device in range(4):
            np.testing.assert_allclose(new.batch_stats['bn'][name][device], expected, atol=1e-6)


@pytest.fixture(scope='module')
def dispatches():
    """A tiny run on four devices: `run(state, start, count)`, the initial state by name, and the traces so far."""
    traces = []

    def counted(*args, **kwargs):
        traces.append(args)
        return train_step(*args, **kwargs)

    state, arguments, run = tiny_run.set_up(tiny.WithBatchNorm(), counted, crop_padding=1)
    initial = jax.device_get(state)
    return lambda state, start, count: run(state, *arguments, np.int32(start), np.int32(count)), initial, traces


def in_parts(dispatches, counts):
    run, initial, _ = dispatches
    state, start, rows = replicate(initial), 0, []
    for count in counts:
        state, metrics = run(state, start, count)
        rows.append(np.stack([metrics[name][start : start + count] for name in sorted(metrics)]))
        start += count
    return state, np.concatenate(rows, 1)


@pytest.mark.parametrize('counts', [(1, 3), (3, 1), (1, 1, 1, 1), (2, 0, 2)])
def test_steps_in_several_dispatches_are_bitwise_those_of_one(dispatches, counts):
    once, metrics = in_parts(dispatches, [4])
    parts, metrics_of_parts = in_parts(dispatches, counts)
    assert int(parts.step) == 4 and np.isfinite(metrics).all() and (metrics[2] > 0).all()
    jax.tree.map(np.testing.assert_array_equal, parts, once)
    np.testing.assert_array_equal(metrics_of_parts, metrics)


def test_the_state_gives_its_memory_away(dispatches):
    run, initial, _ = dispatches
    state = replicate(initial)
    run(state, 0, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_dispatch_fills_the_metrics_of_its_steps_only(dispatches):
    run, initial, _ = dispatches
    _, metrics = run(replicate(initial), 1, 2)
    assert metrics['loss'].shape == (4,)
    assert (np.asarray(metrics['loss']) != 0).tolist() == [False, True, True, False]


def test_compiled_once_for_any_number_of_steps(dispatches):
    run, initial, traces = dispatches
    state, _ = run(replicate(initial), 0, 1)
    before = len(traces)
    assert before > 0
    with jax.log_compiles(False), CompileCount() as compiles:
        for start, count in ((1, 2), (3, 1), (0, 4), (2, 2)):
            state, _ = run(state, start, count)
    assert len(traces) == before
    assert compiles.number == 0


class CompileCount:
    """Counts the programs that XLA compiles."""

    def __enter__(self):
        self.number, self.active = 0, True
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_):
        self.active = False

    def _listen(self, name, duration, **_):
        if self.active and name == '/jax/core/compile/backend_compile_duration':
            self.number += 1


def test_compile_count_counts():
    with CompileCount() as compiles:
        jax.jit(lambda x: x + 1.25)(jnp.zeros(3))
    assert compiles.number >= 1


def shards_differ(state):
    """Returns the names of leaves that differ between devices. pmap with out_axes=None does not look."""
    collected = []
    for name, leaf in tiny_run.leaves_by_name(state).items():
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4 and shards[0].shape == leaf.shape
        if any(not np.array_equal(shard, shards[0]) for shard in shards):
            collected.append(name)
    return collected


def test_replicas_are_identical_after_steps(dispatches):
    state, _ = in_parts(dispatches, [2, 2])
    assert shards_differ(state) == []


def test_replicas_would_differ_without_the_averages():
    """That the test above would see it."""
    state, arguments, run = tiny_run.set_up(tiny.WithBatchNorm(), functools.partial(train_step, axis_name=None))
    state, _ = run(state, *arguments, np.int32(0), np.int32(1))
    differ = shards_differ(state)
    assert 'params/fc/kernel' in differ and 'batch_stats/bn/mean' in differ and 'step' not in differ


def test_dropout_depends_on_seed_step_and_device():
    """Each device's part is the same examples: what makes them differ is the mask."""
    seen = []

    def remember(state, batch, key, **_):
        return state.replace(step=state.step + 1), {
            'loss': jax.random.bits(key, dtype=jnp.uint16).astype(jnp.float32),
            'accuracy': jnp.float32(0),
            'grad_norm': jnp.float32(0),
        }

    state, arguments, run = tiny_run.set_up(tiny.Linear(), remember)
    for start in (0, 0, 2):
        _, metrics = run(replicate(jax.device_get(state)), *arguments, np.int32(start), np.int32(2))
        seen.append([np.asarray(shard.data)[start : start + 2] for shard in metrics['loss'].addressable_shards])
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])  # of state.step, not of the place in the epoch
    assert len(np.unique(seen[0])) == 8
