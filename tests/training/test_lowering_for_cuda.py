"""What a GPU is given, read on this machine: the training step is lowered for CUDA and its StableHLO inspected."""

import functools
import re
from collections import Counter

import jax
import numpy as np
import optax
import pytest
from small_models import image_size, small_kwargs

from configs import speedrun94, speedrun96
from resnet_jax.config import TrainConfig
from resnet_jax.data import dataset_info
from resnet_jax.evaluation.step import parallel_eval_steps
from resnet_jax.forward import forward
from resnet_jax.models import create_model
from resnet_jax.ops.pooling import max_pool
from resnet_jax.runtime.devices import device_positions
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loading import load_batch
from resnet_jax.training.program import create_train_steps, map_over_devices, train_steps
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import train_step

SIZE, STEPS, BATCH_SIZE = 1000, 3, 64
DATA = {'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'dtype': jax.numpy.bfloat16}


def shape(*sizes, dtype=np.int32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def lowered(run, *arguments):
    """The program for CUDA as text; a pmap cannot be asked for another platform itself, the jit around it can."""
    return jax.jit(run).trace(*arguments).lower(lowering_platforms=('cuda',)).as_text()


@functools.cache
def programs(name):
    """The programs for CUDA of a network's training and evaluation steps, as runs have them, and its number of kernels."""
    model, tx = create_model(name, num_classes=10, dtype=jax.numpy.bfloat16), optax.sgd(0.1, momentum=0.9)
    state = jax.eval_shape(functools.partial(create_train_state, model, tx, (32, 32, 3), 0))
    positions, data = device_positions(BATCH_SIZE), {'image': shape(SIZE, 32, 32, 3, dtype=np.uint8), 'label': shape(SIZE)}
    load_fn = functools.partial(load_batch, num_classes=10, crop_padding=4, flip=True, cutout_size=8, **DATA)
    step_fn = functools.partial(train_step, model=model, tx=tx)
    train = map_over_devices(functools.partial(train_steps, step_fn=step_fn, load_fn=load_fn))
    key = shape(2, dtype=np.uint32)
    arguments = (state, positions, data, shape(STEPS, BATCH_SIZE), key, shape(), shape())
    logits_fn = functools.partial(forward, model=model, **DATA)
    evaluate = parallel_eval_steps(logits_fn, batch_size=BATCH_SIZE, num_classes=10)
    kernels = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params))
    return (
        lowered(train, *arguments),
        lowered(evaluate, state.variables, positions, {**data, 'count': shape()}, shape(), shape()),
        kernels,
    )


def operations(text):
    return Counter(re.findall(r'\b(?:stablehlo|chlo)\.(\w+)', text))


def convolutions(text):
    """The operand types of each convolution."""
    return re.findall(r'stablehlo\.convolution.*: \((tensor<\S+>), (tensor<\S+>)\) ->', text)


networks = pytest.mark.parametrize('name', ['resnet18', 'wrn_16_4', 'alexnet'])


@networks
def test_the_convolutions_are_the_native_ones_in_bfloat16(name):
    train, evaluate, kernels = programs(name)
    # Output, gradient for the input and gradient for the kernel. Nothing uses the gradient for the images: where JAX
    # leaves it in the program (before 0.12), XLA takes it out.
    unused = [
        value
        for value, body in re.findall(r'%(\d+):2 = "stablehlo\.case"(.*?)\n +\}\) : ', train, re.S)
        if re.search(r'stablehlo\.convolution.*x3xbf16>$', body, re.M)
    ]
    assert all(f'%{value}#1' in train and f'%{value}#0' not in train for value in unused)
    assert len(convolutions(train)) == operations(train)['convolution'] == 3 * kernels - 1 + len(unused)
    assert len(convolutions(evaluate)) == operations(evaluate)['convolution'] == kernels
    for operands in convolutions(train) + convolutions(evaluate):
        assert all(operand.endswith('xbf16>') for operand in operands)


@networks
def test_no_scatter_no_large_constant_and_nothing_from_the_host(name):
    for text in programs(name)[:2]:
        actual = operations(text)
        assert actual['while'] == 1 and actual['dynamic_update_slice'] > 0  # many steps in one program, and their metrics
        assert not actual.keys() & {'scatter', 'select_and_scatter', 'infeed', 'outfeed', 'send', 'recv'}
        assert not re.findall(r'custom_call @(\w+)', text)  # a callback would be one
        for value, kind in re.findall(r'stablehlo\.constant dense<(.*?)> : tensor<(\S*?)>', text):
            if value[:1] in '["':  # not one value everywhere
                assert np.prod([int(size) for size in re.findall(r'(\d+)x', kind)] or [1]) <= 64, f'a constant {kind}'
        assert len(text) < 2e6


@pytest.mark.parametrize(('window', 'strides', 'padding'), [(2, 2, 0), (3, 2, 1), (3, 2, 0)])
def test_max_pool_has_a_gradient_without_scatter(window, strides, padding):
    pool = jax.grad(lambda x: max_pool(x, window, strides, padding).sum())
    text = lowered(pool, shape(8, 31, 31, 16, dtype=jax.numpy.bfloat16))
    assert not operations(text).keys() & {'scatter', 'select_and_scatter', 'reduce_window'}


@pytest.mark.parametrize('name', ['speedrun94', 'alexnet', 'lenet5', 'd2l_resnet18', 'wrn_16_4', 'resnet8'])
def test_gradients_are_sums_in_float32(name):
    """A bfloat16 sum of as many numbers as the pixels of a batch stops to grow: gradients of biases, and of what scales."""
    kwargs = small_kwargs(name)
    if name == 'resnet8':
        kwargs |= {'norm': 'none', 'squeeze_excite': True}
    model, size = create_model(name, dtype=jax.numpy.bfloat16, **kwargs), image_size(name)
    images = shape(4, size, size, 3, dtype=jax.numpy.bfloat16)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)

    def loss(params, variables, images):
        rngs = {'dropout': jax.random.key(0)}
        logits, _ = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'], rngs=rngs)
        return logits.sum()

    text = lowered(jax.grad(loss), variables['params'], variables, images)
    sums = re.findall(r'stablehlo\.reduce\(.* applies stablehlo\.add .* -> tensor<(\S+)>', text)
    assert sums and not any(kind.endswith('bf16') for kind in sums)


@pytest.mark.parametrize(('config', 'kernels'), [(speedrun94, 7), (speedrun96, 10)])
def test_the_steps_of_the_speedruns(config, kernels):
    """Muon, lookahead, the proxy's choice: in bfloat16 on native operations, without scatter; Muon's products besides."""
    values = config.get_config()
    values.dataset = 'synthetic_cifar10'
    checked = TrainConfig.from_mapping(values)
    experiment = create_experiment(checked, dataset_info(checked.dataset))
    data = {'image': shape(SIZE, 32, 32, 3, dtype=np.uint8), 'label': shape(SIZE)}
    state = jax.eval_shape(experiment.create_state)
    order = shape(STEPS, values.batch_size)
    positions, key = device_positions(values.batch_size), shape(2, dtype=np.uint32)
    text = lowered(create_train_steps(experiment), state, positions, data, order, key, shape(), shape())
    actual = operations(text)
    assert not actual.keys() & {'scatter', 'select_and_scatter', 'infeed', 'outfeed', 'send', 'recv'}
    assert not set(re.findall(r'custom_call @(\w+)', text)) - {'TopK', 'mhlo.topk'}
    assert all(operand.endswith('xbf16>') for operands in convolutions(text) for operand in operands)
    assert sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params)) == kernels
    assert len(convolutions(text)) >= 3 * kernels - 2  # the first layer is frozen: no gradient
