"""CIFAR-10 in eight epochs (network speedrun94, 1.97 M parameters): the recipe of the 94 % speed records.

A frozen whitening stem, Muon on the 3x3 kernels, Nesterov SGD with separate rates for biases and head, a linear decay to
zero, label smoothing, alternating flips, logits averaged over six views. The network and its depth are from
KellerJordan/cifar10-airbench (airbench94_muon.py). The hyperparameters are from hiverge/cifar10-speedrun
(cifar10_speedrun.py), but with 8 epochs instead of 7.59, GELU instead of SiLU, all kernels renormalised at each step, and all
views of all test images.

Command:  python bin/train.py --config=configs/speedrun94.py
Expected: not yet run here on a GPU. The sources report 94.01 % on CIFAR-10's own images (airbench94_muon.py: mean of 200
          runs, 2.59 s; cifar10_speedrun.py: 2.015 s; both on an A100).
Hardware: meant for a GPU: 0.25 PFLOP (105 M multiply-adds for each of 8 * 32 * 1536 images, three times, two FLOPs each).
          On a CPU configs/speedrun_cpu.py is practical.
"""

from resnet_jax import default_config


def get_config():
    config = default_config()
    config.model = 'speedrun94'
    config.dtype = 'bfloat16'
    config.num_epochs = 8
    config.batch_size = 1536
    config.base_batch_size = 1536

    config.crop_padding = 2
    config.crop_mode = 'reflect'
    config.alternating_flip = True
    config.brightness = 0.14
    config.contrast = 0.13
    config.label_smoothing = 0.09

    config.optimizer = 'muon'
    config.learning_rate = 0.205
    config.muon_momentum = 0.655
    # The source sums the loss over the batch; here it is averaged.
    config.bias_learning_rate = 0.0573 * 1536
    config.head_learning_rate = 0.5415 * 1536
    config.whitening_bias_epochs = 0.19
    config.momentum = 0.825
    config.weight_decay = 1.0418e-6 * 1536 / 0.205  # a step at the peak then decays by 1.0418e-6 per example
    config.decay_norm_and_bias = True
    config.schedule = 'linear'
    config.warmup_epochs = 0.0

    config.tta = 'mirror_translate'
    config.eval_batch_size = 2000
    config.eval_every_epochs = 8
    config.checkpoint_every_epochs = 8
    config.log_every = 32
    return config
