"""ResNeXt-29, 8x64d (34.4 M parameters) on CIFAR-10, as in its paper.

SGD with Nesterov momentum, 300 epochs, learning rate divided by 10 after epochs 150 and 225.

Command:  python bin/train.py --config=configs/resnext29.py
Expected: not yet run; for the published figure see Xie et al., arXiv:1611.05431.
Hardware: meant for a GPU, with --config.dtype=bfloat16: 5.39 G multiply-adds per image, nearly ten times ResNet-18's.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'resnext29_8x64d'
    config.num_epochs = 300
    config.schedule = 'step'
    config.warmup_epochs = 0.0
    config.milestones = (0.5, 0.75)
    config.step_factor = 0.1
    return config
