"""CIFAR-10 in 45 epochs (network speedrun96, 9.92 M parameters): the recipe of the 96 % speed record.

A frozen whitening stem, a wider and deeper network with shortcuts, Nesterov SGD with faster biases, lookahead, cutout, label
smoothing; a small network selects the half of each batch to train on. From KellerJordan/cifar10-airbench
(airbench96_faster.py), with these differences. The learning rate rises from 0 (in the source from a fifth of the peak). The
bias of the whitening layer has the rate of the other biases, which falls from its peak over three epochs (in the source it has
the rate of the kernels, and in the proxy none). Cutout's square may cross the edge (in the source it lies inside, and covers a
fifth more). The proxy's logits have the scale of the main network's logits, so its head learns at the source's rate but starts
2.8 times closer to 0.

Command:  python bin/train.py --config=configs/speedrun96.py
Expected: not yet run here on a GPU. The source reports 96.00 % on CIFAR-10's own images (mean of 200 runs), in 27.3 s on an
          A100.
Hardware: meant for a GPU: about 3 PFLOP (414 M multiply-adds for each of 45 * 48 * 512 images, three times, two FLOPs each).
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'speedrun96'
    config.dtype = 'bfloat16'
    config.num_epochs = 45
    config.batch_size = 1024
    config.base_batch_size = 1024

    config.crop_padding = 4
    config.crop_mode = 'reflect'
    config.alternating_flip = True
    config.cutout_size = 12
    config.label_smoothing = 0.2

    config.proxy_model = 'speedrun96'
    config.proxy_model_kwargs = {'widths': (32, 64, 64), 'depth': 2}
    config.selected_fraction = 0.5
    config.proxy_update_every = 4

    # The source states 9 and 0.012 per 1024 examples without the effect of momentum, 1 + 1 / (1 - momentum), and sums the loss
    # over the selected half of a batch; here the loss is averaged.
    config.momentum = 0.85
    config.learning_rate = 9 / (1 + 1 / 0.15) / 2
    config.weight_decay = 0.012 / 9 * 2
    config.decay_norm_and_bias = True
    config.bias_learning_rate = 64 * 9 / (1 + 1 / 0.15) / 2
    config.head_learning_rate = 3 * 512 * 9 / (1 + 1 / 0.15) / 2  # the head's kernel has variance 1; the source's 1 / (3 * 512)
    config.whitening_bias_epochs = 3.0
    config.lookahead_sync_period = 5
    config.lookahead_decay = 0.95**5
    config.schedule = 'linear'
    config.warmup_epochs = 4.5

    config.tta = 'mirror_translate'
    config.eval_batch_size = 2000
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 5
    config.log_every = 48
    return config
