"""AlexNet for 32x32 images, without normalisation: what residual networks are compared with.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 3, with the widths
of "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, as torchvision has them, and with
3x3 kernels and 2x2 pools for small images, as in github.com/icpm/pytorch-cifar10, models/AlexNet.py.

  layer                                  | output for 32x32x3 | params     | PyTorch's name
  conv1 3x3, 64, stride 2, ReLU, pool 2  | 8x8x64             |      1,792 | features.0
  conv2 3x3, 192, ReLU, pool 2           | 4x4x192            |    110,784 | features.3
  conv3 3x3, 384, ReLU                   | 4x4x384            |    663,936 | features.6
  conv4 3x3, 256, ReLU                   | 4x4x256            |    884,992 | features.8
  conv5 3x3, 256, ReLU, pool 2           | 2x2x256            |    590,080 | features.10
  dropout 0.5, fc1, ReLU                 | 4096               |  4,198,400 | classifier.1
  dropout 0.5, fc2, ReLU                 | 4096               | 16,781,312 | classifier.4
  fc3                                    | 10                 |     40,970 | classifier.6
  total                                  |                    | 23,272,266 |

Kernels and biases map as in resnet.py, but for fc1: its rows are in the order height, width, channel here, and in the
order channel, height, width there.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.models.checks import check_dtype, check_images, check_positive_int
from resnet_jax.models.layers import conv2d, he_normal, linear_uniform
from resnet_jax.models.pooling import max_pool


class AlexNet(nn.Module):
    """AlexNet. `apply({'params'}, images, train=bool, rngs={'dropout': key})` returns logits; it has no `batch_stats`.

    Attributes:
      num_classes: number of logits.
      dtype: float32 or bfloat16, what the layers compute in. Parameters, the head and the logits are float32.

    Raises:
      ConfigError: an attribute is out of range.
    """

    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_positive_int('num_classes', self.num_classes)
        check_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point, of at least 15x15 pixels. The size
            decides fc1's shape.
          train: whether to drop units; then the 'dropout' rng is needed.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have another shape, are too small or are not floating point.
        """
        check_images(images, min_size=15)
        conv = functools.partial(conv2d, use_bias=True, dtype=self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=he_normal)
        dropout = functools.partial(nn.Dropout, 0.5, deterministic=not train)

        x = nn.relu(conv(64, 3, 2, name='conv1')(images))
        x = max_pool(x, 2, 2)
        x = nn.relu(conv(192, 3, name='conv2')(x))
        x = max_pool(x, 2, 2)
        x = nn.relu(conv(384, 3, name='conv3')(x))
        x = nn.relu(conv(256, 3, name='conv4')(x))
        x = nn.relu(conv(256, 3, name='conv5')(x))
        x = max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(4096, name='fc1')(dropout()(x)))
        x = nn.relu(dense(4096, name='fc2')(dropout()(x)))
        return nn.Dense(self.num_classes, kernel_init=linear_uniform, name='fc3')(x.astype(jnp.float32))
