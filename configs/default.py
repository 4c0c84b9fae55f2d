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
    config.train_size = 0  # train on so many of the others, as many of each class, the same for every seed; 0: on all

    # Model: a name and arguments for resnet_jax.models.create_model.
    config.model = 'resnet18'
    config.model_kwargs = ConfigDict()
    config.dtype = 'float32'  # of the computation: float32 | bfloat16; parameters and statistics are always float32
    config.cross_device_batch_norm = False  # statistics over the global batch instead of each device's part
    config.deterministic = False  # on a GPU: the same bits every time, for some speed; on a CPU they are the same anyway

    # Length and batch. The batch size is global: it is divided over all devices of all processes.
    config.num_epochs = 200
    config.batch_size = 128
    config.gradient_accumulation_steps = 1  # parts in which a batch is computed, to save memory

    # Augmentation and loss. 0 and False turn a thing off.
    config.crop_padding = 4  # pixels added on each side before a random crop
    config.crop_mode = 'constant'  # what is added: constant (0) or reflect, the image mirrored at its edges
    config.flip = True
    config.alternating_flip = False  # flip each example at random in the first epoch, then by turns (arXiv:2404.00498)
    config.brightness = 0.0  # a number up to this is added to the normalised image, or subtracted; a recipe to 94 % has 0.14
    config.contrast = 0.0  # it is then multiplied by one from 1 - contrast to 1 + contrast; the same recipe has 0.13
    config.cutout_size = 0  # side, in pixels, of a square set to the mean (DeVries and Taylor 2017)
    config.mixup_alpha = 0.0  # Zhang et al. 2018
    config.label_smoothing = 0.0

    # Selection: a small network, trained beside the main one by the same optimizer, chooses what that trains on. The loss and
    # the accuracy that are logged are then those of the chosen examples; proxy_loss is the small network's, of all.
    config.proxy_model = ''  # its name; '' for none
    config.proxy_model_kwargs = ConfigDict()
    config.selected_fraction = 0.5  # of each device's part of a batch: the examples with the largest loss under the proxy
    config.proxy_update_every = 1  # steps between two updates of the proxy, which trains on the same examples

    # Optimizer.
    config.optimizer = 'sgd'  # sgd | adam | adamw | muon; for adam and adamw set learning_rate to about 1e-3
    config.learning_rate = 0.1  # the peak, at a batch of base_batch_size; it grows in proportion to the batch size
    config.base_batch_size = 128  # 0: the learning rate is the peak, whatever the batch size
    config.momentum = 0.9  # of sgd, and of the sgd that muon leaves all but kernels of convolutions to
    config.nesterov = True  # sgd and muon
    config.weight_decay = 5e-4  # added to the gradient (sgd, adam) or decoupled from it (adamw); not for muon's kernels
    config.decay_norm_and_bias = False  # also decay BatchNorm's scale and bias and the biases
    config.clip_norm = 0.0  # largest global norm of the gradient
    config.bias_learning_rate = 0.0  # of biases and BatchNorm, on the same schedule; 0: learning_rate
    config.head_learning_rate = 0.0  # of the kernels of linear layers, likewise; neither changes what weight decay takes
    config.whitening_bias_epochs = 0.0  # in which the rate of a whitening layer's bias falls to 0, along a line
    config.muon_momentum = 0.6  # muon only: of the kernels
    config.muon_steps = 3  # muon only: Newton-Schulz iterations
    config.lookahead_sync_period = 0  # steps between two pulls to the slow weights (Zhang et al. 2019); 0: none
    config.lookahead_decay = 0.774  # share that the slow weights keep at the last pull; it grows as the cube of the step
    config.ema_decay = 0.0  # exponential moving average of the parameters, evaluated beside them

    # Schedule: cosine | linear | one_cycle | step | constant, each after a linear warm-up (one_cycle has its own).
    config.schedule = 'cosine'
    config.warmup_epochs = 5.0
    config.milestones = (0.5, 0.75)  # step only: fractions of the run at which the rate is multiplied by step_factor
    config.step_factor = 0.1

    # Evaluation, checkpoints, log.
    config.eval_batch_size = 1000
    config.tta = 'none'  # average the logits over views of each image: mirror (2 views) | mirror_translate (6)
    config.eval_every_epochs = 1
    config.eval_every_steps = 0  # evaluate after every so many iterations instead; 0: as eval_every_epochs says
    config.checkpoint_every_epochs = 1
    config.log_every = 250  # iterations
    config.divergence_retries = 0  # times that a run which diverges goes back to its last checkpoint, at half the rate
    config.log_gradient_norms = False  # of every layer's kernel, at the first iteration and with each row of the log

    # Several processes: how long all may wait for one that does nothing before they give up, with exit code 75.
    config.watchdog_seconds = 1800.0
    return config
