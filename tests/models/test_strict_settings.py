"""Every network and a training step under JAX's strictest settings, which a caller may have on."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import CASES, image_size, small_kwargs

from resnet_jax import create_model
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compilation')


@contextlib.contextmanager
def strict():
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.enable_x64(True),
            jax.numpy_dtype_promotion('strict'),
            jax.numpy_rank_promotion('raise'),
            jax.debug_nans(True),
            jax.checking_leaks(),
        ):
            stack.enter_context(setting)
        yield


def batch_for(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, image_size(name), image_size(name), 3)).astype(np.float32)
    return {'image': images, 'label': np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]}


@pytest.mark.parametrize('name', CASES)
def test_logits_and_a_training_step(name):
    model, batch = create_model(name, **small_kwargs(name)), batch_for(name)
    tx = optax.sgd(np.float32(0.1), momentum=0.9)
    with strict():
        state = create_train_state(model, tx, batch['image'].shape[1:], 0)
        logits = jax.jit(functools.partial(model.apply, train=False))(
            {'params': state.params, 'batch_stats': state.batch_stats}, batch['image']
        )
        step = jax.jit(functools.partial(train_step, model=model, tx=tx, axis_name=None))
        new, metrics = step(state, batch, jax.random.key(1))
    assert logits.dtype == jnp.float32 and np.isfinite(metrics['loss'])
    assert {leaf.dtype for leaf in jax.tree.leaves((new.params, new.batch_stats, new.opt_state))} == {np.dtype(np.float32)}


@pytest.mark.parametrize('name', ['resnet20', 'preact_resnet18', 'd2l_resnext26', 'speedrun94', 'lenet5', 'alexnet'])
def test_lists_become_tuples_so_that_models_are_static_arguments(name):
    kwargs = {key: list(value) if isinstance(value, tuple) else value for key, value in small_kwargs(name).items()}
    model = create_model(name, **kwargs)
    assert hash(model) == hash(create_model(name, **kwargs))

    @functools.partial(jax.jit, static_argnums=0)
    def classes(model):
        return model.num_classes

    assert classes(model) == 3
