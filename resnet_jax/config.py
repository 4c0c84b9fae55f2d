"""The config of a training run: every field with its type, default, range, meaning, and whether it may change later.

Config files and `--config.FIELD=VALUE` use `ml_collections.ConfigDict`, which `default_config` fills with the defaults here.
The library uses the checked, frozen `TrainConfig`, which `TrainConfig.from_mapping` creates from a ConfigDict or config.json.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict, FieldReference

from resnet_jax.config_checks import (
    CLASS_WEIGHTS,
    EPOCHS,
    FLAG,
    FRACTIONS,
    KEYWORDS,
    NAME,
    OPTIONAL_NAME,
    PATH,
    PATTERNS,
    Check,
    integer,
    number,
    one_of,
)
from resnet_jax.errors import ConfigError, did_you_mean, shortened
from resnet_jax.typing import Json, JsonDict

Changes = Literal['never', 'on_request', 'freely']

# `register_optimizer` appends to it.
OPTIMIZERS = ['sgd', 'adam', 'adamw', 'muon']

LARGEST_SIDE = 4096  # side of an image, in pixels

# How images are resized: see `data.images.read_image`.
RESIZE = ('crop', 'squash', 'pad')


def _field(default: object, check: Check, meaning: str, *, changes: Changes = 'never', section: str = '') -> Any:
    """Returns a field of `TrainConfig`.

    Args:
      changes: whether the field may differ when a run is continued: 'never', 'on_request' (the change is recorded and shown in
        the plot), or 'freely', because the field affects neither the parameters nor the choice of the resulting epoch.
      section: heading of this field and the fields after it.
    """
    metadata = {'check': check, 'meaning': meaning, 'changes': changes, 'section': section}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _plain(value: object) -> object:
    """Converts NumPy's scalars and arrays to Python's numbers and lists, also within dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, 'tolist') else value


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A checked config.

    Raises:
      ConfigError: a value has the wrong type or is out of range, or two values conflict.
    """

    seed: int = _field(
        0,
        integer(0),
        'Everything random (initialisation, shuffling, augmentation, dropout) depends only on the seed and the step.',
        section='Randomness',
    )

    dataset: str = _field(
        'cifar10',
        NAME,
        'cifar10, cifar100, digits, folder:PATH (images in one folder per class), arrays:FILE.npz, tfds:NAME, parquet:PATH, or '
        'a registered name. A run continues with another name only if it is of the same images, as of a folder that moved.',
        changes='on_request',
        section='Data',
    )
    data_dir: str = _field(
        '', PATH, "Root folder prepared by tensorflow-datasets; '' for TFDS_DATA_DIR, else its default.", changes='freely'
    )
    data_archive: str = _field(
        '', PATH, 'Official archive of CIFAR, or folder of its tables in parquet, instead of a download.', changes='freely'
    )
    test_fraction: float = _field(
        0.2,
        number(0, 1, above=True, below=True),
        'Share of each class that becomes the test split of a folder or file that has none.',
    )
    image_size: int = _field(
        0,
        integer(0, LARGEST_SIDE),
        'Height and width in pixels that images are resized to; 0 for the size that all of them have, or else 64.',
    )
    resize: str = _field(
        'crop',
        one_of(RESIZE),
        'crop: the centre square; squash: the whole image, without its proportions; pad: the whole image between black bars.',
    )
    broken_images: str = _field('stop', one_of(('stop', 'skip')), 'An image that cannot be read: stop, or skip it.')
    follow_links: bool = _field(False, FLAG, 'Follow links that lead out of a folder of images.')
    decode: str = _field(
        'once',
        one_of(('once', 'always')),
        'Image files: once, into arrays that are kept on disk; always, each time that one is shown, with resized_crop_area cut '
        'out of the whole picture, for sets whose arrays would not fit on disk (needs image_size and normalization).',
    )
    decode_workers: int = _field(
        0, integer(0, 1024), 'decode=always: processes that decode training images; 0 for threads.', changes='freely'
    )
    test_crop: float = _field(
        1.0,
        number(0, 1, above=True),
        'decode=always: share of the centre that the evaluation shows, 0.875 in recipes for ImageNet.',
    )
    device_data_gib: float = _field(
        0.0,
        number(0),
        'GiB of images that may stay on each device; a larger split is sent there in chunks. 0 for half of the free memory.',
        changes='freely',
    )
    validation_size: int = _field(
        0,
        integer(0),
        'Training images held out; the result is then that of the epoch with the best accuracy on them. 0 for none, or for '
        "the data set's own validation split.",
    )
    train_size: int = _field(
        0, integer(0), 'Train on this many of the other images, stratified by class and the same for every seed; 0 for all.'
    )

    model: str = _field('resnet18', NAME, 'A name for create_model.', section='Model')
    model_kwargs: Mapping[str, Any] = _field({}, KEYWORDS, 'Keyword arguments for create_model.')
    dtype: str = _field(
        'float32',
        one_of(('float32', 'bfloat16')),
        'Compute dtype of the network; parameters and statistics are always float32.',
    )
    cross_device_batch_norm: bool = _field(
        False, FLAG, "BatchNorm statistics over the global batch instead of each device's shard."
    )
    deterministic: bool = _field(
        False,
        FLAG,
        'Make runs on a GPU bitwise reproducible, at some cost in speed; on a CPU they always are.',
        changes='freely',
    )

    cuda_graph: bool = _field(
        True,
        FLAG,
        'On a GPU, run all steps of a dispatch as one CUDA graph, so that the GPU never waits for the host. Ignored with '
        'several processes and where the driver does not support it.',
        changes='freely',
    )

    num_epochs: int = _field(200, integer(1), 'Epochs; `extend` continues a run with more of them.', section='Length and batch')
    batch_size: int = _field(128, integer(1), 'Global batch size, split over all devices of all processes.')
    gradient_accumulation_steps: int = _field(1, integer(1), 'Microbatches that a batch is split into, to save memory.')

    crop_padding: int = _field(
        4, integer(0, 512), 'Pixels added on each side before a random crop; 0 for no crop.', section='Augmentation and loss'
    )
    crop_mode: str = _field(
        'constant',
        one_of(('constant', 'reflect')),
        'Pixels that are added: constant (zeros) or reflect (the image mirrored at its edges).',
    )
    resized_crop_area: float = _field(
        0.0,
        number(0, 1),
        'Smallest share of the image that a random crop shows, resized to the whole, instead of the padded one; 0 for none, '
        '0.08 in recipes for ImageNet.',
    )
    flip: bool = _field(True, FLAG, 'Flip images left to right at random.')
    alternating_flip: bool = _field(
        False, FLAG, 'Flip each image at random in the first epoch, then alternate every epoch (arXiv:2404.00498).'
    )
    saturation: float = _field(
        0.0, number(0), 'Change the saturation by a random factor from 1 - this (at least 0) to 1 + this.'
    )
    hue: float = _field(0.0, number(0, 0.5), 'Turn the hue by a random share of the circle within +- this.')
    auto_augment: str = _field(
        'none',
        one_of(('none', 'randaugment', 'trivialaugment')),
        'Random operations on each image (Cubuk et al. 2020; Müller and Hutter 2021); see docs/augmentation.md.',
    )
    randaugment_num_ops: int = _field(2, integer(1, 16), 'randaugment: operations, one after the other.')
    randaugment_magnitude: int = _field(9, integer(0, 30), 'randaugment: their magnitude, of 30.')
    brightness: float = _field(
        0.0, number(0), 'Add a random number within +- this to a normalised image; a recipe for 94 % uses 0.14.'
    )
    contrast: float = _field(
        0.0, number(0, 1), 'Then multiply by a random number from 1 - contrast to 1 + contrast; the same recipe uses 0.13.'
    )
    cutout_size: int = _field(0, integer(0), 'Side in pixels of a square set to the mean (DeVries and Taylor 2017).')
    random_erasing_prob: float = _field(
        0.0, number(0, 1), 'Probability that a rectangle is set to the mean (Zhong et al. 2020).'
    )
    mixup_alpha: float = _field(0.0, number(0), 'Parameter of the beta distribution of mixup (Zhang et al. 2018).')
    cutmix_alpha: float = _field(
        0.0,
        number(0),
        'The same for CutMix (Yun et al. 2019); with both, each step uses one of them, with probability 1/2.',
    )
    label_smoothing: float = _field(0.0, number(0, 1, below=True), 'Share of each label spread over all classes.')
    class_weights: str | tuple[float, ...] = _field(
        '',
        CLASS_WEIGHTS,
        "Weights of the classes in the training loss: '' for none, balanced for examples / (classes * examples of the class), "
        'or a number for each.',
    )

    proxy_model: str = _field(
        '',
        OPTIONAL_NAME,
        "A small network, trained alongside the main one, that selects the main one's training examples; '' for none. The "
        'logged training loss then covers only the selected examples.',
        section='Selection by a proxy',
    )
    proxy_model_kwargs: Mapping[str, Any] = _field({}, KEYWORDS, "The proxy's keyword arguments for create_model.")
    selected_fraction: float = _field(
        0.5,
        number(0, 1, above=True),
        "Share of each device's shard of a batch to train on: the examples with the largest proxy loss.",
    )
    proxy_update_every: int = _field(1, integer(1), 'Steps between updates of the proxy.')

    optimizer: str = _field(
        'sgd',
        one_of(OPTIMIZERS),
        'sgd, adam, adamw, muon or a registered name; adam and adamw need a learning_rate of about 1e-3.',
        section='Optimizer',
    )
    learning_rate: float = _field(
        0.1,
        number(0, above=True),
        'Peak for a batch of base_batch_size; scaled in proportion to batch_size.',
        changes='on_request',
    )
    base_batch_size: int = _field(
        128, integer(0), 'Batch size that learning_rate is meant for; 0: any, without scaling.', changes='on_request'
    )
    momentum: float = _field(
        0.9, number(0, 1, below=True), 'Momentum of sgd, which muon uses for all but the convolution kernels.'
    )
    nesterov: bool = _field(True, FLAG, 'Nesterov momentum, for sgd and muon.')
    weight_decay: float = _field(
        5e-4,
        number(0),
        'Added to the gradient (sgd, adam) or decoupled (adamw); muon does not decay convolution kernels.',
        changes='on_request',
    )
    decay_norm_and_bias: bool = _field(False, FLAG, "Also decay BatchNorm's scale and bias and the biases of layers.")
    clip_norm: float = _field(0.0, number(0), 'Clip the gradient to this global norm; 0 for no clipping.')
    bias_learning_rate: float = _field(
        0.0,
        number(0),
        'Peak for biases and BatchNorm, on the same schedule; 0 for learning_rate. Does not change how fast they decay.',
        changes='on_request',
    )
    head_learning_rate: float = _field(0.0, number(0), 'The same for the kernels of linear layers.', changes='on_request')
    whitening_bias_epochs: float = _field(
        0.0, number(0), "Epochs over which the learning rate of a whitening layer's bias falls linearly to 0."
    )
    muon_momentum: float = _field(0.6, number(0, 1, below=True), 'muon: momentum of the convolution kernels.')
    muon_steps: int = _field(3, integer(1, 100), 'muon: Newton-Schulz iterations.')
    lookahead_sync_period: int = _field(
        0, integer(0), 'Steps between synchronisations with the slow weights (Zhang et al. 2019); 0 for no lookahead.'
    )
    lookahead_decay: float = _field(
        0.774,
        number(0, 1),
        'Share of the slow weights kept at the last synchronisation; grows with the cube of the step until then.',
    )
    ema_decay: float = _field(
        0.0,
        number(0, 1, below=True),
        'Decay of an exponential moving average of the parameters, which is evaluated too; 0 for none.',
    )

    schedule: str = _field(
        'cosine',
        one_of(('cosine', 'linear', 'one_cycle', 'step', 'constant')),
        'Learning-rate schedule after a linear warm-up; one_cycle has its own warm-up.',
        changes='on_request',
        section='Schedule',
    )
    warmup_epochs: float = _field(5.0, number(0), 'Epochs of the warm-up.', changes='on_request')
    milestones: tuple[float, ...] = _field(
        (0.5, 0.75),
        FRACTIONS,
        'step: fractions of the run at which the rate is multiplied by step_factor.',
        changes='on_request',
    )
    step_factor: float = _field(
        0.1, number(0, 1, above=True), 'step: factor of the rate at each of the milestones.', changes='on_request'
    )

    init_from: str = _field(
        '',
        PATH,
        'Trained weights to start from: a run folder, or a file (.pth, .pt, .th, .safetensors). Not needed after the start.',
        section='Start from weights',
    )
    init_only: str = _field(
        '',
        PATTERNS,
        "Start only these layers from the weights, such as conv1,bn1,layer1_* or backbone (all but the head); '' for all.",
    )
    init_head: str = _field(
        'auto',
        one_of(('auto', 'keep', 'new')),
        'The last layer: auto starts a new one if the number of classes differs, keep refuses to, new always does.',
    )
    init_ema: bool = _field(False, FLAG, 'Start from the averaged parameters of init_from.')
    normalization: str = _field(
        'auto',
        NAME,
        "Mean and standard deviation of the pixels: auto (those of init_from if it has them, else the data set's), dataset, "
        'or a name, such as cifar10, imagenet or half.',
    )
    freeze: str = _field(
        '',
        PATTERNS,
        'Layers that do not train, such as conv1,bn1,layer1_* or backbone (all but the head). They have no optimizer state, '
        "and a frozen BatchNorm uses its running statistics; '' for none.",
    )
    unfreeze_epochs: tuple[int, ...] = _field(
        (),
        EPOCHS,
        'Epochs from which frozen layers train: at each the stage nearest to the head, and at the last all others.',
    )
    layer_decay: float = _field(
        1.0,
        number(0, 1, above=True),
        'Factor of the learning rate from each block to the one before it, counted from the head; 1 for none.',
    )

    eval_batch_size: int = _field(
        1000, integer(1), 'Batch size of the evaluation.', changes='freely', section='Evaluation, checkpoints, log'
    )
    tta: str = _field(
        'none',
        one_of(('none', 'mirror', 'mirror_translate')),
        'Test-time augmentation: logits averaged over views of each image, mirror (2 views) or mirror_translate (6).',
    )
    eval_every_epochs: int = _field(1, integer(1), 'Epochs between evaluations.')
    eval_every_steps: int = _field(0, integer(0), 'Steps between evaluations, instead of epochs; 0: use eval_every_epochs.')
    checkpoint_every_epochs: int = _field(1, integer(1), 'Epochs between checkpoints.', changes='freely')
    log_every: int = _field(250, integer(1), 'Steps between rows of the log.', changes='freely')
    divergence_retries: int = _field(
        0,
        integer(0, 100),
        'Times that a diverged run may go back to its last checkpoint, each time with the learning rates halved.',
        changes='freely',
    )
    log_gradient_norms: bool = _field(
        False, FLAG, "Log the gradient norm of every layer's kernel, at the first step and with each row of the log."
    )
    watchdog_seconds: float = _field(
        1800.0,
        number(1),
        'With several processes: seconds that all wait for one without progress before they exit with code 75.',
        changes='freely',
        section='Several processes',
    )

    def __post_init__(self) -> None:
        for field in fields():
            value = getattr(self, field.name)
            try:
                value = _plain(value)
                accepted = field.metadata['check'].accepts(value)
            except RecursionError:  # the value contains itself
                accepted = False
            if not accepted:
                expected = field.metadata['check'].explain(value)
                raise ConfigError(f'config field {field.name!r} is {shortened(value)}; expected {expected}')
            object.__setattr__(self, field.name, value)
            if isinstance(value, Mapping):  # converts to the types that reading config.json gives
                object.__setattr__(self, field.name, json.loads(json.dumps(value)))
        object.__setattr__(self, 'milestones', tuple(self.milestones))
        if not isinstance(self.class_weights, str):
            object.__setattr__(self, 'class_weights', tuple(map(float, self.class_weights)))
        object.__setattr__(self, 'unfreeze_epochs', tuple(self.unfreeze_epochs))
        if self.schedule != 'one_cycle' and self.warmup_epochs >= self.num_epochs:
            raise ConfigError(
                f'the warm-up takes {self.warmup_epochs:g} epochs and the whole run {self.num_epochs}; '
                'lower warmup_epochs or raise num_epochs'
            )
        if self.alternating_flip and not self.flip:
            raise ConfigError('alternating_flip is a way to flip, and flip is False; expected flip=True with it')
        if self.class_weights and self.proxy_model:
            raise ConfigError('class_weights do not reach a proxy; expected one of class_weights and proxy_model, not both')
        for name, off in (('init_only', ''), ('init_head', 'auto'), ('init_ema', False)):
            if not self.init_from and getattr(self, name) != off:
                raise ConfigError(f'{name} is {getattr(self, name)!r} and there are no weights; expected init_from with it')
        epochs = list(self.unfreeze_epochs)
        if epochs and not self.freeze:
            raise ConfigError(f'unfreeze_epochs is {epochs} and nothing is frozen; expected freeze with it')
        if epochs and epochs[-1] >= self.num_epochs:
            raise ConfigError(f'unfreeze_epochs is {epochs} and the run has {self.num_epochs} epochs; expected earlier ones')
        if self.layer_decay != 1 and self.optimizer == 'muon':
            raise ConfigError('layer_decay scales updates, and muon fixes the norm of kernels; expected layer_decay=1')

    @classmethod
    def from_mapping(cls, values: Json | ConfigDict) -> 'TrainConfig':
        """Returns the checked config of a ConfigDict or of config.json's contents; missing fields get their defaults.

        Raises:
          ConfigError: a field is unknown (names the nearest), or see `TrainConfig`.
        """
        names = [field.name for field in fields()]
        try:
            plain = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
        except RecursionError:
            raise ConfigError('the config contains itself or is nested too deeply; expected flat lists and dicts') from None
        for name in plain:
            if name not in names:
                hint = did_you_mean(str(name), names) or '; expected one of ' + ', '.join(names)
                raise ConfigError(f'unknown config field {name!r}{hint}')
        return cls(**plain)

    def to_dict(self) -> JsonDict:
        """Returns the fields in the form of config.json."""
        result: JsonDict = json.loads(json.dumps({field.name: getattr(self, field.name) for field in fields()}))
        return result

    def replace(self, **changes: Any) -> 'TrainConfig':
        """Returns a checked copy with some values replaced."""
        return dataclasses.replace(self, **changes)


def fields() -> Iterator[dataclasses.Field[object]]:
    """Yields the fields of `TrainConfig`; `metadata` has 'check', 'meaning', 'changes' and 'section'."""
    yield from dataclasses.fields(TrainConfig)


def choices(name: str) -> tuple[str, ...]:
    """Returns the allowed values of a field that has a list of them."""
    values: Sequence[str] = next(field.metadata['check'].choices for field in fields() if field.name == name)
    return tuple(values)


def default_config() -> ConfigDict:
    """Returns a config with every field at its default, for a config file to change and return."""
    values = {field.name: getattr(TrainConfig(), field.name) for field in fields()}
    values['class_weights'] = FieldReference('', field_type=object)  # takes a tuple as well as a string
    return ConfigDict({name: ConfigDict(value) if isinstance(value, dict) else value for name, value in values.items()})
