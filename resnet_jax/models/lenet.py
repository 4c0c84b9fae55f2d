"""LeNet-5, the predecessor of AlexNet; its sigmoids show how gradients vanish.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, section II.B, as simplified in Dive into Deep
Learning, section 7.6: sigmoid and average pooling have no parameters, and every channel of conv2 sees every channel of
conv1. The book pads 28x28 images by 2, to LeCun's 32x32. With ReLU and max pooling this is the network of
github.com/kuangliu/pytorch-cifar, models/lenet.py.

  layer                  | output for 32x32x3 | params | PyTorch's name: kuangliu; D2L
  conv1 5x5, 6, pool 2   | 14x14x6            |    456 | conv1; net.0
  conv2 5x5, 16, pool 2  | 5x5x16             |  2,416 | conv2; net.3
  fc1                    | 120                | 48,120 | fc1; net.7
  fc2                    | 84                 | 10,164 | fc2; net.9
  fc3                    | 10                 |    850 | fc3; net.11
  total                  |                    | 62,006 | 61,706 with one channel

Kernels and biases map to PyTorch's as in resnet.py, except for fc1: its rows are in the order (height, width, channel) here
and in the order (channel, height, width) in PyTorch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.models.activations import Activation, sigmoid
from resnet_jax.models.checks import check_choice, check_dtype, check_images, check_positive_int, head_dtype
from resnet_jax.models.layers import conv2d, dense, sow_features
from resnet_jax.ops.pooling import average_pool, max_pool

POOLS = ('average', 'max')


class LeNet(nn.Module):
    """LeNet-5. `apply({'params'}, images, train=bool)` returns logits; it has no `batch_stats`.

    Kernels are initialised as in the book, with Glorot uniform.

    Attributes:
      num_classes: number of logits.
      act: the activation.
      pool: 'average' or 'max'.
      padding: pixels of padding around the image before conv1: 0 for 32x32, 2 for 28x28.
      dtype: compute dtype of the layers, float32 or bfloat16; parameters, the head and the logits are float32. See `ResNet`
        for float64.

    Raises:
      ConfigError: an attribute is out of range.
    """

    num_classes: int = 10
    act: Activation = sigmoid
    pool: str = 'average'
    padding: int = 0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        check_positive_int('num_classes', self.num_classes)
        check_choice('pool', self.pool, POOLS)
        if not callable(self.act):
            raise ConfigError(f'act must be a function, not {self.act!r}')
        if self.padding != 0:
            check_positive_int('padding', self.padding)
        check_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point, of at least 16x16 pixels including the
            padding. Their size determines fc1's shape.
          train: has no effect.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have the wrong shape, are too small or are not floating point.
        """
        check_images(images, min_size=16 - 2 * self.padding)
        xavier = nn.initializers.xavier_uniform()
        conv = functools.partial(conv2d, use_bias=True, dtype=self.dtype, kernel_init=xavier)
        linear = functools.partial(dense, dtype=self.dtype, kernel_init=xavier)
        pool = average_pool if self.pool == 'average' else functools.partial(max_pool, strides=2)

        x = pool(self.act(conv(6, 5, padding=self.padding, name='conv1')(images)), window=2)
        sow_features(self, 'stage1', x)
        x = pool(self.act(conv(16, 5, padding=0, name='conv2')(x)), window=2)
        sow_features(self, 'stage2', x)
        x = x.reshape(x.shape[0], -1)
        x = self.act(linear(120, name='fc1')(x))
        x = self.act(linear(84, name='fc2')(x))
        x = x.astype(head_dtype(self.dtype))
        sow_features(self, 'pooled', x)
        return nn.Dense(self.num_classes, kernel_init=xavier, name='fc3')(x)
