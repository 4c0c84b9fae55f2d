"""AlexNet, without normalisation: a baseline for residual networks.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 3, with the widths
of "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, as in torchvision. It has two stems.
'cifar' has 3x3 kernels and 2x2 pools for small images, as in github.com/icpm/pytorch-cifar10, models/AlexNet.py:

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

'imagenet' is torchvision's alexnet, made for 224x224: conv1 is 11x11 with stride 4 and padding 2, conv2 is 5x5, each pool
is 3x3 with stride 2, and fc1 follows an adaptive average pool to 6x6, so it has 9216 inputs for every image size.

Kernels and biases map to PyTorch's as in resnet.py, except for fc1: its rows are in the order (height, width, channel) here
and in the order (channel, height, width) in PyTorch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.models.checks import check_choice, check_dtype, check_images, check_positive_int, head_dtype
from resnet_jax.models.layers import conv2d, dense, linear_uniform, sow_features
from resnet_jax.ops.pooling import adaptive_average_pool, max_pool

STEMS = ('cifar', 'imagenet')


class AlexNet(nn.Module):
    """AlexNet. `apply({'params'}, images, train=bool, rngs={'dropout': key})` returns logits; it has no `batch_stats`.

    Attributes:
      num_classes: number of logits.
      stem: 'cifar' or 'imagenet'; see above.
      dtype: compute dtype of the layers, float32 or bfloat16; parameters, the head and the logits are float32. See `ResNet`
        for float64.

    Raises:
      ConfigError: an attribute is out of range.
    """

    num_classes: int = 10
    stem: str = 'cifar'
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        check_positive_int('num_classes', self.num_classes)
        check_choice('stem', self.stem, STEMS)
        check_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point. With the 'cifar' stem they have at least 15x15
            pixels, and their size determines fc1's shape; with the 'imagenet' stem they have at least 63x63 pixels.
          train: whether to apply dropout, which needs the 'dropout' rng.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have the wrong shape, are too small or are not floating point.
        """
        small = self.stem == 'cifar'
        check_images(images, min_size=15 if small else 63)
        conv = functools.partial(conv2d, use_bias=True, dtype=self.dtype)
        dropout = functools.partial(nn.Dropout, 0.5, deterministic=not train)
        pool = functools.partial(max_pool, window=2 if small else 3, strides=2)

        conv1 = conv(64, 3, 2, name='conv1') if small else conv(64, 11, 4, padding=2, name='conv1')
        x = pool(nn.relu(conv1(images)))
        sow_features(self, 'stage1', x)
        x = pool(nn.relu(conv(192, 3 if small else 5, name='conv2')(x)))
        sow_features(self, 'stage2', x)
        x = nn.relu(conv(384, 3, name='conv3')(x))
        x = nn.relu(conv(256, 3, name='conv4')(x))
        x = pool(nn.relu(conv(256, 3, name='conv5')(x)))
        sow_features(self, 'stage3', x)
        if not small:
            x = adaptive_average_pool(x, 6)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(4096, dtype=self.dtype, name='fc1')(dropout()(x)))
        x = nn.relu(dense(4096, dtype=self.dtype, name='fc2')(dropout()(x)))
        x = x.astype(head_dtype(self.dtype))
        sow_features(self, 'pooled', x)
        return nn.Dense(self.num_classes, kernel_init=linear_uniform, name='fc3')(x)
