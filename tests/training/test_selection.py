import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import torch

from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.step import eval_step
from resnet_jax.forward import forward
from resnet_jax.models import create_model
from resnet_jax.runtime.devices import AXIS
from resnet_jax.training.experiment import create_experiment, select_count
from resnet_jax.training.loading import load_batch
from resnet_jax.training.selection import select_hardest
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compilation')

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(12, 2, 3, 1)).astype(np.float32)
LABELS = RNG.dirichlet([0.3] * 3, 12).astype(np.float32)  # soft, as with mixup and label smoothing
BATCH = {'image': IMAGES, 'label': LABELS}
KEY = jax.random.key(11)
SGD = optax.sgd(0.5)


@functools.cache
def state_of(model):
    """The same class as main network and as proxy."""
    return create_train_state(model, SGD, IMAGES.shape[1:], 3, proxy=(model, SGD))


def selection(model, **kwargs):
    return functools.partial(select_hardest, model=model, tx=SGD, **kwargs)


def torch_linear(params, images, labels):
    """Losses of the examples, and the gradient of the mean loss of those that are asked for."""
    weight, bias = (torch.tensor(np.array(params['fc'][name]), requires_grad=True) for name in ('kernel', 'bias'))
    logits = torch.tensor(images.reshape(len(images), -1)) @ weight + bias
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction='none')

    def gradient(chosen):
        grads = torch.autograd.grad(losses[torch.tensor(chosen)].mean(), (weight, bias))
        return {'fc': {name: grad.numpy() for name, grad in zip(('kernel', 'bias'), grads, strict=True)}}

    return losses.detach().numpy(), gradient


def test_it_selects_the_hardest_in_their_order_and_trains_the_proxy_on_them_as_torch():
    state = state_of(tiny.Linear())
    losses, gradient = torch_linear(state.proxy['params'], IMAGES, LABELS)
    chosen = sorted(np.argsort(losses)[-5:])
    assert chosen != list(range(7, 12)) and chosen != list(np.argsort(losses)[-5:])
    run = jax.jit(functools.partial(selection(tiny.Linear(), count=5), axis_name=None))
    batch, proxy, loss = run(state.proxy, state.step, BATCH, KEY)
    np.testing.assert_array_equal(batch['image'], IMAGES[chosen])
    np.testing.assert_array_equal(batch['label'], LABELS[chosen])
    assert loss == pytest.approx(losses.mean(), rel=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.proxy['params'], gradient(chosen))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), proxy['params'], expected)


def test_the_main_network_trains_on_what_was_selected():
    """As if it had been given only that; and its metrics are of that."""
    state = state_of(tiny.Linear())
    losses, _ = torch_linear(state.proxy['params'], IMAGES, LABELS)
    chosen = sorted(np.argsort(losses)[-6:])
    step = functools.partial(train_step, model=tiny.Linear(), tx=SGD, axis_name=None)
    new, metrics = jax.jit(functools.partial(step, select_fn=selection(tiny.Linear(), count=6)))(state, BATCH, KEY)
    alone, expected = jax.jit(step)(state, {name: values[chosen] for name, values in BATCH.items()}, KEY)
    assert metrics.pop('proxy_loss') == pytest.approx(losses.mean(), rel=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), metrics, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), new.params, alone.params)
    jax.tree.map(np.testing.assert_array_equal, alone.proxy, state.proxy)
    assert int(new.step) == 1 and new.proxy.keys() == state.proxy.keys()


def test_between_updates_the_proxy_only_sees_the_batch():
    model = tiny.WithBatchNorm()  # whose new statistics count half
    state = state_of(model)
    run = jax.jit(functools.partial(selection(model, count=6, update_every=3), axis_name=None))
    params, mean, moved = state.proxy['params'], np.zeros(6), []
    for step in range(5):
        _, proxy, _ = run(state.proxy, jnp.int32(step), BATCH, KEY)
        state, mean = state.replace(proxy=proxy), (mean + IMAGES.reshape(12, 6).mean(0)) / 2
        np.testing.assert_allclose(proxy['batch_stats']['bn']['mean'], mean, atol=1e-6)
        moved.append(not np.array_equal(proxy['params']['fc']['kernel'], params['fc']['kernel']))
        params = proxy['params']
    assert moved == [True, False, False, True, False]


@pytest.mark.parametrize('update_every', [1, 2])
def test_each_device_selects_from_its_own_part_and_the_proxies_stay_equal(update_every):
    """With one axis in place of the devices."""
    state = state_of(tiny.Linear())
    parts = jax.tree.map(lambda x: x.reshape(4, 3, *x.shape[1:]), BATCH)
    run = functools.partial(selection(tiny.Linear(), count=1, update_every=update_every), axis_name=AXIS)
    batch, proxy, loss = jax.vmap(run, in_axes=(None, None, 0, None), axis_name=AXIS)(state.proxy, state.step, parts, KEY)
    losses, gradient = torch_linear(state.proxy['params'], IMAGES, LABELS)
    chosen = 3 * np.arange(4) + losses.reshape(4, 3).argmax(1)
    np.testing.assert_array_equal(batch['image'][:, 0], IMAGES[chosen])
    np.testing.assert_allclose(loss, np.full(4, losses.mean()), rtol=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.proxy['params'], gradient(chosen))
    for device in range(4):
        here = jax.tree.map(lambda p, d=device: p[d], proxy['params'])
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), here, expected)


def test_the_proxy_is_initialised_by_itself():
    state = state_of(tiny.Linear())
    assert not np.array_equal(state.proxy['params']['fc']['kernel'], state.params['fc']['kernel'])
    alone = create_train_state(tiny.Linear(), SGD, IMAGES.shape[1:], 3)
    assert alone.proxy == {}
    jax.tree.map(np.testing.assert_array_equal, alone.params, state.params)  # as without a proxy


def test_nothing_in_the_recipe_lowers_to_a_scatter_on_a_gpu():
    """Batches with every augmentation, both networks' gradients, and the views of the evaluation."""
    model, small = (create_model('resnet8', num_classes=3, num_filters=filters) for filters in (4, 2))
    state = jax.eval_shape(lambda: create_train_state(model, SGD, (8, 8, 1), 0, proxy=(small, SGD)))
    select_fn = functools.partial(select_hardest, model=small, tx=SGD, count=6, update_every=4)
    augmentation = {'crop_padding': 1, 'crop_mode': 'reflect', 'flip': True, 'alternating_flip': True, 'steps_per_epoch': 2}
    augmentation |= {'brightness': 0.14, 'contrast': 0.13, 'cutout_size': 2, 'label_smoothing': 0.2}
    load = functools.partial(load_batch, num_classes=3, mean=(0.3,), std=(0.2,), dtype=jnp.bfloat16, **augmentation)
    step = functools.partial(train_step, model=model, tx=SGD, select_fn=select_fn, axis_name=None)

    def whole(state, data, order):
        batch = load(data['image'], data['label'], order, jnp.arange(12), state.step, KEY)
        state, metrics = step(state, batch, KEY)
        batch = {'image': data['image'][:12], 'label': data['label'][:12], 'mask': jnp.ones(12)}
        settings = {'mean': (0.3,), 'std': (0.2,), 'dtype': jnp.bfloat16, 'tta': 'mirror_translate'}
        return state, metrics, eval_step(state.variables, batch, logits_fn=functools.partial(forward, model=model, **settings))

    stripes = tiny.split(24, 4)
    data = {'image': stripes.image, 'label': stripes.label}
    text = jax.jit(whole).trace(state, data, np.arange(12)).lower(lowering_platforms=('cuda',)).as_text()
    assert 'scatter' not in text
    assert 'stablehlo.convolution' in text and 'stablehlo.case' in text  # that it looks at the right thing


def proxied(**overrides):
    kwargs = {'stage_sizes': (1,), 'num_filters': 2}
    settings = {'proxy_model': 'resnet8', 'proxy_model_kwargs': kwargs, 'batch_size': 32, **overrides}
    return create_experiment(tiny.checked(**settings), tiny.dataset().info)


def test_the_rate_of_the_proxy_is_that_of_the_step_of_the_run():
    experiment = proxied(proxy_update_every=3, num_epochs=9, momentum=0.0, weight_decay=0.0)
    tx, params = experiment.proxy[1], {'fc': {'kernel': jnp.zeros((1, 1))}}
    opt_state, rates = tx.init(params), []
    for _ in range(3):
        updates, opt_state = tx.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
        rates.append(-float(updates['fc']['kernel'][0, 0]))
    assert rates == pytest.approx([float(experiment.schedule(step)) for step in (0, 3, 6)])
    assert len(set(rates)) == 3


def test_the_config_says_what_selects_and_how_much():
    experiment = proxied(selected_fraction=0.75)
    assert experiment.proxy[0].num_filters == 2 and experiment.model.num_filters == 4
    assert experiment.selected_count == 6  # of 8 on each of the four devices
    assert proxied(proxy_model='').proxy is None and proxied(proxy_model='').selected_count == 8
    with pytest.raises(ConfigError, match="unknown model 'resnet9'"):
        proxied(proxy_model='resnet9')
    with pytest.raises(ConfigError, match=r'proxy_model_kwargs has dtype; .* from config.dtype alone'):
        proxied(proxy_model_kwargs={'dtype': 'bfloat16'})
    with pytest.raises(ConfigError, match=r'selects 3 of the 8 .* 2 accumulation steps; .*selected_fraction=0.25 or 0.5$'):
        proxied(selected_fraction=0.4, gradient_accumulation_steps=2)


@pytest.mark.parametrize(('size', 'fraction', 'count'), [(128, 0.5, 64), (8, 0.01, 1), (8, 1, 8), (10, 0.33, 3)])
def test_how_many_are_selected(size, fraction, count):
    assert select_count(size, fraction, 1) == count
