"""Checks of model arguments; each raises a one-line ConfigError that says what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError

_MOST_BLOCKS = 5000  # in a network; resnet1202 has 600, and tracing 5000 takes a minute
_LARGEST_SIZE = 2**20  # filters, classes or pixels; much larger numbers overflow the shapes of arrays


def check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ConfigError if the value is not one of the choices."""
    if value not in choices:
        raise ConfigError(f'{field} must be one of {", ".join(map(repr, choices))}, not {value!r}')


def check_positive_int(field: str, value: object) -> None:
    """Raises ConfigError if the value is not an integer from 1 to 2**20."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ConfigError(f'{field} must be an integer of at least 1, not {value!r}')
    if value > _LARGEST_SIZE:  # not shown: Python refuses to write an integer of thousands of digits
        raise ConfigError(f'{field} is too large; expected at most {_LARGEST_SIZE:,}')


def check_filters(field: str, first: int, stages: int) -> None:
    """Raises ConfigError if the last stage has too many filters; each stage has twice as many as the stage before it."""
    if stages > _LARGEST_SIZE.bit_length() or first * 2 ** (stages - 1) > _LARGEST_SIZE:
        raise ConfigError(
            f'{field} has {stages} stages, and the last would have {first} * 2 ** {stages - 1} filters; expected at most '
            f'{_LARGEST_SIZE:,}'
        )


def check_positive(field: str, value: object) -> None:
    """Raises ConfigError if the value is not a finite number above 0."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not 0 < value < float('inf'):
        raise ConfigError(f'{field} must be a number above 0, not {value!r}')


def check_rate(field: str, value: object) -> None:
    """Raises ConfigError if the value is not a number in [0, 1)."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not 0 <= value < 1:
        raise ConfigError(f'{field} must be a share from 0 to below 1, not {value!r}')


def check_stage_sizes(stage_sizes: object) -> None:
    """Raises ConfigError if the value is not a tuple with the number of blocks of each stage, in total at most 5,000."""
    if not isinstance(stage_sizes, tuple | list) or not stage_sizes:
        raise ConfigError(f'stage_sizes must be a tuple with the blocks of each stage, as (2, 2, 2), not {stage_sizes!r}')
    for size in stage_sizes:
        check_positive_int('each of stage_sizes', size)
    if sum(stage_sizes) > _MOST_BLOCKS:
        raise ConfigError(f'stage_sizes has {sum(stage_sizes)} blocks; expected at most {_MOST_BLOCKS}')


def check_dtype(dtype: DTypeLike) -> None:
    """Raises ConfigError unless the dtype is float32, bfloat16 or, if it is enabled in JAX, float64.

    Float16's range needs loss scaling, which this library does not have.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = ''
    if name == 'float64' and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ConfigError("dtype is float64, which JAX has off; expected jax.config.update('jax_enable_x64', True) before")
    if name not in ('float32', 'bfloat16', 'float64'):
        raise ConfigError(f'dtype must be float32, bfloat16 or float64, not {dtype!r}')


def head_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of the head and the logits: float64 if the whole network is float64, otherwise float32."""
    return jnp.promote_types(dtype, jnp.float32)


def check_images(images: jax.Array, min_size: int = 1) -> None:
    """Raises ConfigError unless images are floating-point `[batch, height, width, channels]` of at least `min_size` pixels."""
    if images.ndim != 4:
        raise ConfigError(f'images must have the shape [batch, height, width, channels], not {images.shape}')
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ConfigError(f'images must be normalised floating-point numbers, not {images.dtype}')
    height, width = images.shape[1:3]
    if height < min_size or width < min_size:  # not min(): symbolic sizes cannot be compared with each other
        raise ConfigError(f'images of {height}x{width} pixels are too small; need at least {min_size}x{min_size}')
