"""Random saturation and hue of an RGB image, like torchvision's ColorJitter on Pillow images."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.operations import saturate


def random_saturation(key: jax.Array, image: jax.Array, largest: float) -> jax.Array:
    """Changes the saturation of uint8 `[height, width, 3]` by a factor from 1 - `largest` (at least 0) to 1 + `largest`."""
    return saturate(image, jax.random.uniform(key, (), jnp.float32, max(0.0, 1.0 - largest), 1.0 + largest))


def random_hue(key: jax.Array, image: jax.Array, largest: float) -> jax.Array:
    """Turns the hue of uint8 `[height, width, 3]` by a share of the circle from -`largest` to `largest` (at most 0.5)."""
    turn = jax.random.uniform(key, (), jnp.float32, -largest, largest)
    return turn_hue(image, (255.0 * turn).astype(jnp.int32))


def turn_hue(image: jax.Array, steps: jax.Array) -> jax.Array:
    """Adds `steps` to Pillow's 8-bit hue, modulo 256.

    Even with 0 steps most colours change a little, because HSV has only 256 hues and 256 saturations.

    Args:
      image: uint8 `[height, width, 3]`.
      steps: int32 scalar.
    """
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb((hue + steps) % 256, saturation, value)


def rgb_to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns hue, saturation and value, each int32 `[height, width]` from 0 to 255, like Pillow's mode HSV."""
    levels = image.astype(jnp.float32)
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    high, low = levels.max(axis=-1), levels.min(axis=-1)
    spread = jnp.maximum(high - low, 1.0)
    from_red, from_green, from_blue = (high - red) / spread, (high - green) / spread, (high - blue) / spread
    sixths = jnp.where(
        red == high,
        from_blue - from_green,
        jnp.where(green == high, 2.0 + (from_red - from_blue), 4.0 + (from_green - from_red)),
    )
    turns = jnp.where(sixths < 0, sixths / 6.0 + 1.0, sixths / 6.0)
    hue = jnp.floor(turns * 255.0).astype(jnp.int32)
    saturation = jnp.floor((high - low) / jnp.maximum(high, 1.0) * 255.0).astype(jnp.int32)
    return jnp.where(high > low, hue, 0), saturation, high.astype(jnp.int32)


def hsv_to_rgb(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """Returns uint8 `[height, width, 3]` from hue, saturation and value as `rgb_to_hsv` returns them."""
    turned = (hue.astype(jnp.float32) * 6.0 / 255.0)[..., None]  # in sixths of the circle: red is at 0, green at 2, blue at 4
    share, level = (values.astype(jnp.float32)[..., None] for values in (saturation / 255.0, value))
    distance = jnp.abs(turned - jnp.array([3.0, 2.0, 4.0])[None, None, :])  # for red, the distance from the opposite hue
    near = jnp.array([1.0, -1.0, -1.0])[None, None, :] * distance + jnp.array([-1.0, 2.0, 2.0])[None, None, :]
    lacking = share * (1.0 - jnp.clip(near, 0.0, 1.0))
    return jnp.floor(level * (1.0 - lacking) + 0.5).astype(jnp.uint8)  # rounds half up, like C for positive numbers
