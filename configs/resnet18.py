"""ResNet-18 (3x3 stem for 32x32 images, 11.17 M parameters) on CIFAR-10: the default recipe, 200 epochs.

Command:  python bin/train.py --config=configs/resnet18.py
Expected: not yet run in full. For orientation: 93.02 % in github.com/kuangliu/pytorch-cifar, the same network with a
          step schedule of 350 epochs.
Time:     days on 2 CPU cores, as the log says at the start; not measured on a GPU.
Hardware: meant for a GPU, with --config.dtype=bfloat16.
"""

from resnet_jax import default_config


def get_config():
    return default_config()
