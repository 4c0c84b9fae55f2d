"""Transfers all arrays of trained weights that fit to a new network with another head or number of channels."""

import dataclasses
import functools
from collections.abc import Collection, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import InputFileError
from resnet_jax.runtime.devices import options_for_init
from resnet_jax.runtime.untrusted import printable
from resnet_jax.typing import Variables
from resnet_jax.weights.match import Shape, model_shapes
from resnet_jax.weights.names import flatten, unflatten
from resnet_jax.weights.parts import bare, first_kernel, head_names


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The result of `transfer`; arrays are float32, by name with collection, such as 'params/conv1/kernel'.

    Attributes:
      arrays: the arrays that the network takes from the weights.
      new: names of the network's other arrays, which are initialised.
      unused: names of the weights' other arrays.
      channels: how the first kernel was converted, for a message; '' if it was not converted.
    """

    arrays: Mapping[str, np.ndarray]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    channels: str = ''


def transfer(
    weights: Mapping[str, np.ndarray],
    model: nn.Module,
    image_shape: Shape,
    *,
    wanted: Collection[str] | None = None,
    strict: bool = True,
    source: str = 'the weights',
    advice: str = 'expected weights of this model',
) -> Transfer:
    """Returns the arrays that `model`, for images of `image_shape`, takes from another network.

    If only the number of input channels differs, the first kernel is summed over its inputs; for more than one channel this sum
    is repeated and divided by the number of channels. An image with equal channels then gives the same output as before.

    Args:
      weights: arrays by name with collection, e.g. 'params/conv1/kernel'.
      wanted: names of the arrays to take; None for all arrays of the model.
      strict: whether arrays that the model does not have are an error.
      source, advice: for the message: where the weights come from, and what the user should do if they do not fit.

    Raises:
      InputFileError: a wanted array is missing or has another shape, or, if `strict`, the model lacks an array.
    """
    shapes = model_shapes(model, image_shape)
    arrays: dict[str, np.ndarray] = {}
    wrong: list[str] = []
    channels, first = '', first_kernel(model, image_shape)
    for name in shapes if wanted is None else [name for name in shapes if name in wanted]:
        array = weights.get(name)
        if array is not None and array.shape != shapes[name] and name == first and _only_channels(array.shape, shapes[name]):
            before, after = array.shape[2], shapes[name][2]
            array = _of_channels(array, after)
            done = [*(['summed over them'] if before > 1 else []), *([f'repeated and divided by {after}'] if after > 1 else [])]
            channels = f'{bare(name)} is for {before} channels, and here are {after}: {", ".join(done)}'
        if array is None or array.shape != shapes[name]:
            theirs = 'missing' if array is None else str(list(array.shape))
            wrong.append(f'{bare(name)} is {theirs}, expected {list(shapes[name])}')
        else:
            arrays[name] = array
    if strict:
        wrong += [
            f'{bare(name)} is there, and {type(model).__name__} has no such' for name in sorted(weights.keys() - shapes.keys())
        ]
    if wrong:
        more = f', and {len(wrong) - 1} more differ' if len(wrong) > 1 else ''
        raise InputFileError(
            f'{source} does not fit the network for images {list(image_shape)}: {printable(wrong[0])}{more}; {advice}'
        )
    return Transfer(
        arrays,
        new=tuple(name for name in shapes if name not in arrays),
        unused=tuple(sorted(weights.keys() - arrays.keys())),
        channels=channels,
    )


def with_new_head(variables: Variables, model: nn.Module, image_shape: Shape, seed: int) -> Variables:
    """Returns `variables` for `model` and images of `image_shape`, with a head initialised as by `model.init`.

    Raises:
      InputFileError: see `transfer`.
    """
    key = jax.random.key(seed)
    init = jax.jit(functools.partial(model.init, train=False), compiler_options=options_for_init(key))
    arrays = flatten(init(key, jnp.zeros((1, *image_shape))))
    wanted = arrays.keys() - head_names(model, image_shape)
    moved = transfer(flatten(variables), model, image_shape, wanted=wanted, source='the network')
    return unflatten({**arrays, **moved.arrays})


def _only_channels(theirs: Shape, ours: Shape) -> bool:
    return len(theirs) == len(ours) == 4 and theirs[:2] == ours[:2] and theirs[3] == ours[3]


def _of_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a kernel `[height, width, in, out]` for another number of inputs."""
    total = kernel.sum(axis=2, keepdims=True)
    return np.ascontiguousarray(np.repeat(total / np.float32(channels), channels, axis=2), np.float32)


def convert_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Converts the mean or standard deviation of each channel to another number of channels: the average, repeated."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
