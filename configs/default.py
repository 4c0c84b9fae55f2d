"""The default recipe: ResNet-18 (3x3 stem) on CIFAR-10. Other configs start from it and change a few fields.

SGD with Nesterov momentum, cosine decay with warm-up, random crops and flips, weight decay only on the kernels. For every field
with its default, range and meaning see resnet_jax/config.py or `resnet-jax train --help`. For command, expected result, time
and hardware see resnet18.py, which is the same recipe.
"""

from resnet_jax.config import default_config as get_config

__all__ = ['get_config']
