"""A network's forward pass: from uint8 images to logits, as a traceable function and compiled over batches."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import normalize, tta_logits
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.models import features
from resnet_jax.runtime.devices import options_for_init
from resnet_jax.typing import PyTree, Variables

Arrays = Sequence[np.ndarray | ImagesOnDemand]


def forward(
    variables: Variables,
    images: jax.Array,
    *,
    model: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any,
    tta: str = 'none',
) -> jax.Array:
    """Returns float32 logits `[n, num_classes]` of uint8 images `[n, height, width, channels]`, averaged over `tta`'s views."""
    apply: Callable[[jax.Array], Any] = functools.partial(model.apply, variables, train=False)
    return tta_logits(apply, normalize(images, mean, std, dtype), tta)


class CompiledForward:
    """A network with its normalisation, as functions of uint8 images `[n, height, width, channels]`.

    Compiled programs are kept. They take the variables as an argument; closed over, the variables would be constants.

    Args:
      mean, std: None if unknown; the network's input is then the scaled pixels.
      tta: test-time augmentation of the logits.

    Attributes:
      logits_fn: `forward` of the network, a function of (variables, images).
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Variables,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        dtype: np.dtype,
        tta: str,
    ):
        self._model, self._variables = model, variables
        how: dict[str, Any] = {'mean': mean or (0.0,), 'std': std or (1.0,), 'dtype': dtype}
        self._normalize: Callable[[jax.Array], jax.Array] = functools.partial(normalize, **how)
        self.logits_fn: Callable[[Variables, jax.Array], jax.Array] = functools.partial(forward, model=model, tta=tta, **how)
        self._programs: dict[Hashable, jax.stages.Wrapped] = {}

    @functools.cached_property
    def on_device(self) -> Variables:
        """The variables on the default device."""
        # After training the variables are on all devices, but only the default device computes.
        variables: Variables = jax.device_put(jax.device_get(self._variables))
        return variables

    def probabilities_fn(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Returns float32 probabilities `[n, num_classes]`; traceable."""
        return jax.nn.softmax(self.logits_fn(variables, images))

    def of_inputs(self, function: Callable[..., PyTree], **options: Any) -> Callable[..., PyTree]:
        """Returns `function(model, variables, inputs, *others, **options)` as a function of (variables, images, *others).

        Normalises the images and any other uint8 argument. Can be traced if `function` can.
        """

        def compute(variables: Variables, *arrays: jax.Array) -> PyTree:
            inputs = (self._normalize(array) if array.dtype == jnp.uint8 else array for array in arrays)
            return function(self._model, variables, *inputs, **options)

        return compute

    def logits(self, images: np.ndarray | ImagesOnDemand, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 logits and their log-softmax, `[n, num_classes]`."""

        def compute(variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.logits_fn(variables, images)
            return logits, jax.nn.log_softmax(logits)

        program = self._program('logits', compute)
        result: tuple[np.ndarray, np.ndarray] = self._over_batches(program, [images], batch_size)
        return result

    def features(self, images: np.ndarray) -> dict[str, jax.Array]:
        """Returns the network's intermediate outputs, in a single batch: see `models.features`."""
        result: dict[str, jax.Array] = self._program('features', self.of_inputs(features))(self.on_device, images)
        return result

    def over_batches(
        self, function: Callable[..., PyTree], arrays: Arrays, batch_size: int, *more: np.ndarray, **options: Any
    ) -> PyTree:
        """Returns the result of `of_inputs(function, **options)` on batches of `arrays`; each call also gets `more`."""
        fast = options_for_init(jax.random.key(0))  # compilation takes longest
        program = self._program((function, tuple(options.items())), self.of_inputs(function, **options), fast)
        return self._over_batches(program, arrays, batch_size, *more)

    def _program(self, key: Hashable, function: Callable[..., PyTree], options: Any = None) -> jax.stages.Wrapped:
        if key not in self._programs:
            self._programs[key] = jax.jit(function, compiler_options=options)
        return self._programs[key]

    def _over_batches(self, program: jax.stages.Wrapped, arrays: Arrays, batch_size: int, *more: np.ndarray) -> PyTree:
        """Pads the last batch, so that all batches have the same size."""
        count = len(arrays[0])
        if not count:
            shapes = jax.eval_shape(program, self.on_device, *(_padded(array[:0], 1) for array in arrays), *more)
            return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes)
        size, results = max(1, min(batch_size, count)), []
        for start in range(0, count, size):
            batch = [_padded(array[start : start + size], size) for array in arrays]
            results.append(jax.tree.map(np.asarray, program(self.on_device, *batch, *more)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))
