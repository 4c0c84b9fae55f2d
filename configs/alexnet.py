"""AlexNet for 32x32 images (23.27 M parameters) on CIFAR-10.

Command:  python bin/train.py --config=configs/alexnet.py
Expected: 78.31 % test accuracy, n = 1 (seed 0), on CIFAR-10 (JPEG copy), which was compressed once as JPEG: see README.
Time:     20 minutes of training at 603 images/s; that run took 52 minutes on a busy machine.
Hardware: 2 cores of an AMD EPYC (Zen 5), float32; jax 0.10.2, flax 0.12.8.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'alexnet'
    config.num_epochs = 15
    config.schedule = 'one_cycle'
    config.learning_rate = 0.02
    return config
