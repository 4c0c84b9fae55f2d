"""Times the training step of a user's training loop (docs/own_loop.md): a network in linen with optax, and in NNX."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from resnet_jax import data, models, plugins
from resnet_jax import nnx as our_nnx
from resnet_jax.benchmark.measure import Effort, interleave, on_random_data, summary
from resnet_jax.benchmark.worker import Worker
from resnet_jax.runtime.environment import environment
from resnet_jax.typing import Json, PyTree, Row, Variables


class OwnLoops:
    """Both loops with a config's network, on one batch of random images that is on the device."""

    def __init__(self, config: Json):
        info = data.dataset_info(config['dataset'])
        self._shape, self._classes, self._config = info.image_shape, info.num_classes, config
        images, labels = jax.random.split(jax.random.key(0))
        size = config['batch_size']
        self._batch = (
            jax.random.normal(images, (size, *self._shape)),
            jax.random.randint(labels, (size,), 0, self._classes),
        )
        self._optimizer = optax.sgd(1e-3, momentum=0.9, nesterov=True)
        self._loops: dict[str, Callable[[], jax.Array]] = {'linen': self._linen(), 'nnx': self._nnx()}

    def describe(self) -> Row:
        """Returns versions and hardware."""
        return {'environment': environment(plugins.imported)}

    def run(self, *, form: str, steps: int) -> float:
        """Returns the seconds of `steps` training steps."""
        before = time.monotonic()
        for _ in range(steps):
            loss = self._loops[form]()
        jax.block_until_ready(loss)
        return time.monotonic() - before

    def _linen(self) -> Callable[[], jax.Array]:
        model = models.create_model(self._config['model'], self._classes, **self._config['model_kwargs'])
        variables = model.init(jax.random.key(0), jnp.zeros((1, *self._shape)), train=False)
        state = (variables, self._optimizer.init(variables['params']))

        @jax.jit
        def train_step(
            variables: Variables, optimizer_state: optax.OptState, images: jax.Array, labels: jax.Array
        ) -> tuple[tuple[Variables, optax.OptState], jax.Array]:
            def loss_fn(params: Variables) -> tuple[jax.Array, PyTree]:
                inputs = {**variables, 'params': params}
                logits, updated = model.apply(inputs, images, train=True, mutable=['batch_stats'])
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

            (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
            updates, optimizer_state = self._optimizer.update(gradients, optimizer_state)
            return ({'params': optax.apply_updates(variables['params'], updates), **updated}, optimizer_state), loss

        def step() -> jax.Array:
            nonlocal state
            loss: jax.Array
            state, loss = train_step(*state, *self._batch)
            return loss

        return step

    def _nnx(self) -> Callable[[], jax.Array]:
        rngs, keywords = nnx.Rngs(0), self._config['model_kwargs']
        model = our_nnx.create_model(self._config['model'], self._classes, rngs=rngs, image_shape=self._shape, **keywords)
        optimizer = nnx.Optimizer(model, self._optimizer, wrt=nnx.Param)

        @nnx.jit
        def train_step(
            model: our_nnx.Network, optimizer: nnx.Optimizer[Any], images: jax.Array, labels: jax.Array
        ) -> jax.Array:
            def loss_fn(model: our_nnx.Network) -> jax.Array:
                loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
                return loss

            loss: jax.Array
            loss, gradients = nnx.value_and_grad(loss_fn)(model)
            optimizer.update(model, gradients)
            return loss

        def step() -> jax.Array:
            loss: jax.Array = train_step(model, optimizer, *self._batch)
            return loss

        return step


def measure_own_loops(name: str, config: Json, effort: Effort, progress: Callable[[str], None] = lambda line: None) -> Row:
    """Measures both loops in turns.

    Args:
      config: a checked config; its data set gives the shape of the images.

    Returns:
      'name', 'batch_size', 'linen' and 'nnx' in images/s, 'ratio' nnx / linen, 'environment'.
    """
    config = on_random_data(config)
    with Worker('own_loops', {}, config=config) as worker:

        def speed(form: str) -> Callable[[], float]:
            worker('run', form=form, steps=1)  # compiles
            steps = max(1, min(2000, int(effort.seconds / (worker('run', form=form, steps=2) / 2))))
            return lambda: config['batch_size'] * steps / worker('run', form=form, steps=steps)

        linen, ours = speed('linen'), speed('nnx')
        progress(f'{name}: both compiled')
        first, second, ratios = interleave(ours, linen, effort.rounds)
        facts = worker('describe')
    row = {'nnx': summary(first), 'linen': summary(second), 'ratio': summary(ratios)}
    return {'name': name, 'batch_size': config['batch_size'], **row, **facts}


def table(row: Row) -> str:
    """Returns the medians as a Markdown table."""
    lines = [
        f'{row["name"]}, batch {row["batch_size"]}, {row["environment"]["device"]}; medians of {row["ratio"]["n"]}',
        '',
        '| loop | images/s | lowest-highest |',
        '|---|---|---|',
    ]
    for form, label in (('linen', 'linen, optax'), ('nnx', 'NNX')):
        cell = row[form]
        lines.append(f'| {label} | {cell["median"]:,.0f} | {cell["low"]:,.0f}-{cell["high"]:,.0f} |')
    ratio = row['ratio']
    return '\n'.join([*lines, '', f'NNX / linen: {ratio["median"]:.3f} ({ratio["low"]:.3f}-{ratio["high"]:.3f})'])
