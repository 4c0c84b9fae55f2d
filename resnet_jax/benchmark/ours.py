"""Our side of the benchmark: the training and evaluation steps of a run, on random data, and single layers."""

import collections
import functools
import re
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import data, plugins
from resnet_jax.benchmark.hlo import step_kernels
from resnet_jax.config import TrainConfig, choices
from resnet_jax.data.augment import TTA
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.models.introspection import layers
from resnet_jax.ops import convolution
from resnet_jax.runtime.devices import replicate
from resnet_jax.runtime.environment import environment
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.program import TrainingProgram
from resnet_jax.typing import Json, JsonDict


def inspect_program(text: str) -> dict[str, int]:
    """Counts the loops, branches and scatters of a compiled program, and its convolutions by the dtype of their result."""
    kinds = ('while', 'conditional', 'scatter', 'select-and-scatter', 'infeed', 'outfeed', 'all-reduce')
    counts = collections.Counter(dict.fromkeys(kinds, 0))
    for dtype, operation, target in _OPERATION.findall(text):
        if operation in kinds:
            counts[operation] += 1
        elif operation == 'custom-call':
            counts[f'custom-call {target}' + (f' {dtype}' if 'conv' in target else '')] += 1
        elif operation == 'convolution':
            counts[f'convolution {dtype}'] += 1
    return dict(counts)


# The dtype of the result (for a tuple, of its first part), the operation, and the target of a custom call.
_OPERATION = re.compile(r'^ +(?:ROOT )?%\S+ = \(?(\w+)\[.*? ([a-z][a-z-]+)\(.*?(?:custom_call_target="([^"]*)".*)?$', re.M)


class Steps:
    """A config's network, optimizer and steps on all devices of this process."""

    def __init__(self, config: Json):
        jax.monitoring.register_event_listener(self._count_event)
        self._events: dict[str, int] = {}
        checked = TrainConfig.from_mapping(config)
        dataset = data.find_dataset(checked.dataset, data.LoadOptions.of(checked)).dataset
        self._experiment = experiment = create_experiment(checked, dataset.info)
        train, _ = data.training_splits(dataset, checked.validation_size, checked.train_size, checked.seed)
        self._state = replicate(experiment.create_state(experiment.whitening_kernel(train.image)))
        self._program = TrainingProgram(experiment, train)
        self._evaluator = Evaluator(
            experiment.logits_fn, dataset.test, batch_size=checked.eval_batch_size, num_classes=dataset.num_classes
        )

    def _count_event(self, event: str, **_: str | int) -> None:
        self._events[event] = self._events.get(event, 0) + 1

    def describe(self) -> JsonDict:
        """Returns versions, hardware and the network's size: multiply-adds per image, parameters."""
        experiment = self._experiment
        height, _, channels = experiment.info.image_shape
        counts = layers(experiment.model, height, channels)
        multiply_adds = sum(layer.multiply_adds for layer in counts)
        # In a training step each of the two gradients takes about as many multiply-adds as the forward pass.
        train = 3.0 * multiply_adds
        if experiment.proxy:  # the proxy sees the whole batch; then both networks train on a part of it
            selected = experiment.selected_count / experiment.device_batch_size
            proxy = sum(layer.multiply_adds for layer in layers(experiment.proxy[0], height, channels))
            train = selected * train + proxy * (1 + 2 / experiment.config.proxy_update_every)
        return {
            'environment': environment(plugins.imported),
            'multiply_adds': multiply_adds,
            'train_multiply_adds': train,  # per image of a batch
            'eval_multiply_adds': multiply_adds * max(1, 2 * len(TTA[experiment.config.tta])),
            'eval_batch_size': self._evaluator.batch_size,
            'parameters': sum(layer.params for layer in counts),
            'devices': jax.device_count(),
            'steps_per_epoch': experiment.steps_per_epoch,
            'eval_batches': self._evaluator.batches,
        }

    def compile(self, phase: str) -> JsonDict:
        """Compiles 'train' or 'eval'.

        Returns:
          The time, whether the program was in the cache, the scratch memory of a device, the bytes that the operations of a
          step read and write there (in caches or in memory), and the operations.
        """
        hits, before = self._events.get('/jax/compilation_cache/cache_hits', 0), time.monotonic()
        train = phase == 'train'
        compiled = self._program.compile(self._state) if train else self._evaluator.compile(self._state.variables)
        seconds = time.monotonic() - before
        assert isinstance(compiled, jax.stages.Compiled)  # always so with a single process
        cached = self._events.get('/jax/compilation_cache/cache_hits', 0) > hits
        scratch, text = compiled.memory_analysis(), compiled.as_text() or ''
        return {
            'seconds': seconds,
            'from_cache': cached,
            'scratch_bytes': scratch.temp_size_in_bytes if scratch else None,
            'step_bytes': sum(kernel.share * (kernel.read + kernel.written) for kernel in step_kernels(text)),
            'program': inspect_program(text),
        }

    def train(self, steps: int, variant: str = '') -> float:
        """Runs training steps and returns the seconds until their metrics are on the host.

        Raises:
          UserError: training diverges.
        """
        before = time.monotonic()
        while steps:
            count = min(steps, self._experiment.steps_per_epoch)
            self._state, metrics = self._program.run(self._state, 0, count)  # always steps of the first epoch
            steps -= count
            if not all(np.isfinite(row[name]) for row in metrics for name in ('loss', 'grad_norm')):
                raise UserError('training diverges, and no step is made after that; expected a lower learning_rate')
        return time.monotonic() - before

    def eval(self, steps: int, variant: str = '') -> float:
        """Evaluates batches and returns the seconds until the sums are on the host."""
        before = time.monotonic()
        while steps:
            count = min(steps, self._evaluator.batches)
            self._evaluator.sums(self._state.variables, 0, count)
            steps -= count
        return time.monotonic() - before

    def matrix_products(self, size: int, seconds: float) -> dict[str, float]:
        """Returns the best rate of a square matrix product, in multiply-adds per second, by dtype."""
        return {name: self._matrix_product(size, seconds, name) for name in choices('dtype')}

    def _matrix_product(self, size: int, seconds: float, dtype: str) -> float:
        a = jnp.full((size, size), 1 / size, dtype)

        @jax.jit
        def repeat(a: jax.Array, count: int) -> jax.Array:
            product: jax.Array = jax.lax.fori_loop(0, count, lambda _, x: x @ a, a)
            return product[0, 0]

        repeat(a, 1).block_until_ready()
        best, count, end = 0.0, 1, time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.monotonic()
            repeat(a, count).block_until_ready()
            elapsed = time.monotonic() - before
            best = max(best, count * size**3 / elapsed)
            if elapsed < seconds / 5:
                count *= 2
        return best

    def memory_rate(self, size: int, seconds: float) -> float:
        """Returns the best rate at which arrays of `size` bytes are read and written, in bytes per second."""

        @jax.jit
        def repeat(a: jax.Array, count: int) -> jax.Array:
            result: jax.Array = jax.lax.fori_loop(0, count, lambda i, x: x + i, a)
            return result

        a = jnp.zeros(size // 4, jnp.float32)
        repeat(a, 1).block_until_ready()
        best, end = 0.0, time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.monotonic()
            repeat(a, 4).block_until_ready()
            best = max(best, 4 * 2 * size / (time.monotonic() - before))
        return best

    def peak_memory(self) -> dict[str, int]:
        """Returns the peak memory so far, in bytes: of this process and, if known, of the first device."""
        stats = jax.local_devices()[0].memory_stats() or {}
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {'host': host, **({'device': stats['peak_bytes_in_use']} if 'peak_bytes_in_use' in stats else {})}


Arrays = tuple[jax.Array, jax.Array, jax.Array]  # images, kernel, gradient of the output


class Layers:
    """Single convolutions: as in our networks ('ours'), and the convolution of `jax.lax` with JAX's gradients ('XLA')."""

    def __init__(self) -> None:
        self._compiled: dict[object, tuple[jax.stages.Wrapped, Arrays]] = {}

    def run(self, *, form: str, part: str, steps: int, **given: Any) -> float:
        """Returns the seconds of `steps` executions in a loop on the device, like training steps."""
        key = form, part, tuple(given.items())
        if key not in self._compiled:
            self._compiled[key] = self._make(form, part, **given)
        loop, arrays = self._compiled[key]
        before = time.monotonic()
        jax.block_until_ready(loop(arrays, steps))
        return time.monotonic() - before

    def _make(
        self,
        form: str,
        part: str,
        *,
        height: int,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        padding: int,
        **given: Any,
    ) -> tuple[jax.stages.Wrapped, Arrays]:
        strides, pads = (stride, stride), ((padding, padding), (padding, padding))
        if form == 'ours':
            conv: Callable[[jax.Array, jax.Array], jax.Array] = functools.partial(
                convolution.conv, strides=strides, padding=pads
            )
        else:
            numbers = ('NHWC', 'HWIO', 'NHWC')
            conv = functools.partial(
                jax.lax.conv_general_dilated, window_strides=strides, padding=pads, dimension_numbers=numbers
            )
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (given['batch_size'], height, height, inputs), given['dtype'])
        weights = jax.random.normal(keys[1], (kernel, kernel, inputs, outputs), given['dtype'])
        out = jax.eval_shape(conv, x, weights)
        g = jax.random.normal(keys[2], out.shape, out.dtype)

        def once(x: jax.Array, weights: jax.Array, g: jax.Array) -> jax.Array:
            if part == 'output':
                return conv(x, weights)
            if part == 'input_gradient':
                _, transposed = jax.vjp(lambda x: conv(x, weights), x)
            else:
                _, transposed = jax.vjp(lambda weights: conv(x, weights), weights)
            gradient: jax.Array = transposed(g)[0]
            return gradient

        def body(i: jax.Array, carry: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
            arrays, _ = carry
            arrays, _ = jax.lax.optimization_barrier((arrays, i))  # keeps XLA from hoisting executions out of the loop
            return arrays, once(*arrays)

        def loop(arrays: Arrays, steps: int) -> jax.Array:
            out: jax.Array
            _, out = jax.lax.fori_loop(0, steps, body, (arrays, jnp.zeros_like(once(*arrays))))
            return out

        return jax.jit(loop), (x, weights, g)

    def forget(self) -> None:
        """Frees the arrays and programs of earlier shapes."""
        self._compiled.clear()
