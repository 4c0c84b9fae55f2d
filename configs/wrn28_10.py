"""Wide ResNet-28-10 (36.5 M parameters) on CIFAR-10, as in its paper but with crops padded by zeros.

SGD with Nesterov momentum, 200 epochs, learning rate multiplied by 0.2 after epochs 60, 120 and 160.

Command:  python bin/train.py --config=configs/wrn28_10.py
          with dropout, as in the paper's appendix: --config.model_kwargs.dropout=0.3
Expected: not yet run; for the published figure see Zagoruyko and Komodakis, arXiv:1605.07146.
Hardware: meant for a GPU, with --config.dtype=bfloat16: 5.24 G multiply-adds per image, nearly ten times ResNet-18's.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'wrn_28_10'
    config.schedule = 'step'
    config.warmup_epochs = 0.0
    config.milestones = (0.3, 0.6, 0.8)
    config.step_factor = 0.2
    config.decay_norm_and_bias = True
    return config
