"""ResNet-20 (0.27 M parameters, shortcut option A) on CIFAR-10 with the recipe of He et al. 2016, section 4.2.

Command:  python bin/train.py --config=configs/resnet20.py
Expected: not yet run in full. For orientation: 91.25 % in the paper (table 6; trained on 45,000 of the images) and 91.73 %
          in github.com/akamaster/pytorch_resnet_cifar10.
Time:     some 6 hours on 2 cores of an AMD EPYC (Zen 5), at the 392 images/s measured there; not measured on a GPU.
Hardware: a GPU, or patience.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'resnet20'
    config.num_epochs = 164  # 63,960 iterations, for the paper's 64,000
    config.schedule = 'step'  # at half and three quarters, as in the paper
    config.milestones = (0.5, 0.75)
    config.warmup_epochs = 0.0
    config.nesterov = False
    config.weight_decay = 1e-4
    config.decay_norm_and_bias = True
    return config
