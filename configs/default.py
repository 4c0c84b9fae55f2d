"""The complete recipe: every field there is, with its meaning. Other configs import it and override a few lines.

It trains ResNet-18 (3x3 stem) on CIFAR-10 with the usual recipe: SGD with Nesterov momentum, cosine decay with warm-up,
random crops and flips, weight decay on the kernels only. Command, expected result, time and hardware: see resnet18.py,
which is this recipe under its own name.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Everything random (initialisation, order, augmentation, dropout) is a function of the seed and the step.
    config.seed = 0

    # Data. data_dir is a tfds folder ('' means TFDS_DATA_DIR, then tfds's default); data_archive an official archive.
    config.dataset = 'cifar10'  # cifar10 | cifar100 | digits
    config.data_dir = ''
    config.data_archive = ''
    config.validation_size = 0  # training examples held out; the epoch that does best on them is then the result

    # Model: a name and arguments for resnet_jax.models.create_model.
    config.model = 'resnet18'
    config.model_kwargs = ConfigDict()
    config.dtype = 'float32'  # of the computation: float32 | bfloat16; parameters and statistics are always float32
    config.cross_device_batch_norm = False  # statistics over the global batch instead of each device's part

    # Length and batch. The batch size is global: it is divided over all devices of all processes.
    config.num_epochs = 200
    config.batch_size = 128
    config.gradient_accumulation_steps = 1  # parts in which a batch is computed, to save memory

    # Augmentation and loss. 0 and False turn a thing off.
    config.crop_padding = 4  # pixels of zeros on each side before a random crop
    config.flip = True
    config.cutout_size = 0  # side, in pixels, of a square set to the mean (DeVries and Taylor 2017)
    config.mixup_alpha = 0.0  # Zhang et al. 2018
    config.label_smoothing = 0.0

    # Optimizer.
    config.optimizer = 'sgd'  # sgd | adam | adamw; for the last two set learning_rate to about 1e-3
    config.learning_rate = 0.1  # the peak, at a batch of base_batch_size; it grows in proportion to the batch size
    config.base_batch_size = 128  # 0: the learning rate is the peak, whatever the batch size
    config.momentum = 0.9  # sgd only, as is nesterov
    config.nesterov = True
    config.weight_decay = 5e-4  # added to the gradient (sgd, adam) or decoupled from it (adamw)
    config.decay_norm_and_bias = False  # also decay BatchNorm's scale and bias and the biases
    config.clip_norm = 0.0  # largest global norm of the gradient
    config.ema_decay = 0.0  # exponential moving average of the parameters, evaluated beside them

    # Schedule: cosine | one_cycle | step | constant, each after a linear warm-up (one_cycle has its own).
    config.schedule = 'cosine'
    config.warmup_epochs = 5.0
    config.milestones = (0.5, 0.75)  # step only: fractions of the run at which the rate is multiplied by step_factor
    config.step_factor = 0.1

    # Evaluation, checkpoints, log.
    config.eval_batch_size = 1000
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.log_every = 250  # iterations
    config.divergence_retries = 0  # times that a run which diverges goes back to its last checkpoint, at half the rate
    return config
