"""Pre-activation ResNet-18 (11.17 M parameters) on CIFAR-10: the default recipe, 200 epochs.

Command:  python bin/train.py --config=configs/preact_resnet18.py
Expected: not yet run. For orientation: 95.11 % in github.com/kuangliu/pytorch-cifar, the same network with a step
          schedule of 350 epochs (the figure is from July 2017, before that repository had a cosine schedule).
Hardware: meant for a GPU, with --config.dtype=bfloat16.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'preact_resnet18'
    return config
