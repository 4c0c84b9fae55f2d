"""The residual network of Dive into Deep Learning (11.18 M parameters; 32x32 images end as 1x1 maps) on CIFAR-10.

Command:  python bin/train.py --config=configs/d2l_resnet18.py
Expected: 81.28 % test accuracy, n = 1 (seed 0), on CIFAR-10 (JPEG copy), which was compressed once as JPEG: see README.
Time:     11 minutes of training at 1,089 images/s; that run took 24 minutes on a busy machine.
Hardware: 2 cores of an AMD EPYC (Zen 5), float32; jax 0.10.2, flax 0.12.8.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'd2l_resnet18'
    config.num_epochs = 15
    config.schedule = 'one_cycle'
    config.learning_rate = 0.1
    return config
