"""A trained network with all that is needed to use it: `Classifier`, which everything takes and loading returns."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import plugins
from resnet_jax.config import TrainConfig
from resnet_jax.data.augment import normalize, tta_logits
from resnet_jax.data.images import read_image
from resnet_jax.data.normalization import find_normalization
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.models import create_model, features
from resnet_jax.ops import kernels
from resnet_jax.runs import checkpoint
from resnet_jax.runtime.devices import AXIS
from resnet_jax.weights import load_variables, save_safetensors, save_torch

Variables = Mapping[str, Any]
Images = Sequence[str | Path] | np.ndarray


class Prediction(NamedTuple):
    """The most probable class of an image, and the probabilities of all, float32 `[num_classes]`."""

    name: str
    probability: float
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a classifier comes from.

    Attributes:
      model, model_kwargs: what `create_model` made it of.
      path: the run folder or file.
      dataset, fingerprint: name and fingerprint of the data set it was trained on; '' if unknown.
      step: steps of training; None if unknown.
      config: of the run; None if it was not trained here.
    """

    model: str
    model_kwargs: Mapping[str, Any]
    path: str = ''
    dataset: str = ''
    fingerprint: str = ''
    step: int | None = None
    config: TrainConfig | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with its preprocessing and its classes.

    Images are uint8 `[n, height, width, channels]`; normalisation is inside. One compiled program computes all of the methods,
    with the C kernels on a CPU.

    Attributes:
      model, variables: for `model.apply(variables, images, train=False)`; variables are {'params', 'batch_stats'}.
      image_shape: (height, width, channels) that it was trained on.
      class_names: one for each logit.
      mean, std: of the channels, of pixels scaled to [0, 1]; one for all or one for each.
      dtype: of the images that the network is given.
      tta: test-time augmentation, 'none', 'mirror' or 'mirror_translate': see `data.augment.tta_logits`.
      origin: where it comes from.
    """

    model: nn.Module
    variables: Variables
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))
    tta: str = 'none'
    origin: Origin = Origin('', {})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        ema: bool = False,
        model: str | None = None,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        normalization: str | None = None,
        **model_kwargs: Any,
    ) -> 'Classifier':
        """Loads a run folder, or a file of weights: .pth, .pt, .th or .safetensors; torch is not needed.

        Of a run it is the last checkpoint or, if the run held out a validation split, the best one.

        Args:
          ema: of a run: take the averaged parameters.
          model, image_shape, num_classes, **model_kwargs: of a file, unless `save` wrote it: see `weights.load_variables`.
          normalization: of a file: 'imagenet', 'cifar10', ... (see data/normalization.py); by default what the file says, else
            none: mean 0 and standard deviation 1.

        Raises:
          InputFileError: there is nothing, it is damaged, or of another model.
          ConfigError: an argument is unknown or does not go with the file.
        """
        if Path(path).is_dir() or (not Path(path).exists() and not Path(path).suffix):
            if model or image_shape or num_classes or normalization or model_kwargs:
                raise ConfigError(f'{path} is a run folder, which knows its model; expected no other argument than ema')
            return _load_run(Path(path), ema)
        if ema:
            raise ConfigError(f'{path} is a file of weights; averaged parameters are only in run folders')
        built, variables, facts = load_variables(path, model, image_shape=image_shape, num_classes=num_classes, **model_kwargs)
        mean, std = facts.get('mean', (0.0,)), facts.get('std', (1.0,))
        if normalization:
            mean, std = find_normalization(normalization)
        height, width, channels = facts['image_shape']
        return cls(
            model=built,
            variables=variables,
            image_shape=(height, width, channels),
            class_names=tuple(facts.get('class_names') or map(str, range(facts['num_classes']))),
            mean=tuple(mean),
            std=tuple(std),
            origin=Origin(facts['model'], facts['model_kwargs'], str(path), facts.get('dataset', '')),
        )

    def save(self, path: str | Path, *, naming: str | None = None) -> None:
        """Writes a file of weights by its suffix: .safetensors, which `load` reads without more, or .pth, .pt, .th for PyTorch.

        Args:
          naming: for PyTorch, whose names: see `weights.save_torch`.

        Raises:
          ConfigError: the suffix or the naming is unknown.
          ResourceError: the file cannot be written.
        """
        suffix = Path(path).suffix
        if suffix in ('.pth', '.pt', '.th'):
            return save_torch(path, self.model, self.variables, naming)
        if suffix != '.safetensors':
            raise ConfigError(f'unknown format of {str(path)!r}; expected a name that ends with .safetensors, .pth, .pt or .th')
        save_safetensors(path, self.variables, self.describe())

    def describe(self) -> dict[str, Any]:
        """Returns what a file must say of the weights to be used: JSON-like."""
        return {
            'model': self.origin.model,
            'model_kwargs': dict(self.origin.model_kwargs),
            'num_classes': len(self.class_names),
            'image_shape': list(self.image_shape),
            'class_names': list(self.class_names),
            'mean': list(self.mean),
            'std': list(self.std),
            **({'dataset': self.origin.dataset} if self.origin.dataset else {}),
        }

    @property
    def logits_fn(self) -> Callable[[Variables, jax.Array], jax.Array]:
        """The traceable function from variables and uint8 images `[n, height, width, channels]` to logits, float32."""
        return functools.partial(forward, model=self.model, mean=self.mean, std=self.std, dtype=self.dtype, tta=self.tta)

    def logits(self, images: Images, batch_size: int = 1000) -> np.ndarray:
        """Returns float32 logits `[n, num_classes]` of files or of uint8 images.

        Raises:
          ConfigError: the images have another dtype or number of channels.
          InputFileError: a file is not a readable image.
        """
        return self._compute(images, batch_size)[0]

    def log_probabilities(self, images: Images, batch_size: int = 1000) -> np.ndarray:
        """Returns float32 natural logarithms of the probabilities; otherwise as `logits`."""
        return self._compute(images, batch_size)[1]

    def probabilities(self, images: Images, batch_size: int = 1000) -> np.ndarray:
        """Returns float32 probabilities; otherwise as `logits`."""
        return np.exp(self.log_probabilities(images, batch_size))

    def predict(self, images: Images, batch_size: int = 1000) -> list[Prediction]:
        """Classifies image files of any size, or uint8 images; otherwise as `logits`."""
        probabilities = self.probabilities(images, batch_size)
        best = probabilities.argmax(axis=1)
        return [Prediction(self.class_names[i], float(row[i]), row) for i, row in zip(best, probabilities, strict=True)]

    def features(self, images: Images) -> dict[str, jax.Array]:
        """Returns what the network computes on its way to the logits, of one view: see `models.features`."""
        inputs = normalize(jnp.asarray(self._read(images)), self.mean, self.std, self.dtype)
        return features(self.model, self.variables, inputs)

    def _read(self, images: Images) -> np.ndarray:
        if not isinstance(images, np.ndarray):
            files = [read_image(path, self.image_shape) for path in images]
            return np.stack(files) if files else np.zeros((0, *self.image_shape), np.uint8)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.image_shape:
            shape = ', '.join(map(str, self.image_shape))
            raise ConfigError(f'images are {images.dtype}{list(images.shape)}; expected uint8 [n, {shape}]')
        return images

    def _compute(self, images: Images, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits and their log-softmax; every batch has one size, and the last one is padded."""
        array = self._read(images)
        size, results = max(1, min(batch_size, len(array))), [(np.zeros((0, len(self.class_names)), np.float32),) * 2]
        for start in range(0, len(array), size):
            batch = array[start : start + size]
            padded = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
            logits, log_probabilities = self._compiled(self._on_device, padded)
            results.append((np.asarray(logits)[: len(batch)], np.asarray(log_probabilities)[: len(batch)]))
        first, second = zip(*results, strict=True)
        return np.concatenate(first), np.concatenate(second)

    @functools.cached_property
    def _on_device(self) -> Variables:
        # Of a training run they lie on all devices; one computes.
        variables: Variables = jax.device_put(jax.device_get(self.variables), jax.local_devices()[0])
        return variables

    @functools.cached_property
    def _compiled(self) -> Callable[[Variables, np.ndarray], tuple[jax.Array, jax.Array]]:
        # The variables are an argument: closed over, they would be constants of the compiled program.
        @jax.jit
        @kernels.enabled()
        def compute(variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.logits_fn(variables, images)
            return logits, jax.nn.log_softmax(logits)

        return compute


def forward(
    variables: Variables,
    images: jax.Array,
    *,
    model: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any,
    tta: str = 'none',
) -> jax.Array:
    """Returns float32 logits `[n, num_classes]` of uint8 images `[n, height, width, channels]`: normalise, apply, average."""
    apply: Callable[[jax.Array], Any] = functools.partial(model.apply, variables, train=False)
    return tta_logits(apply, normalize(images, mean, std, dtype), tta)


def build_model(config: TrainConfig, num_classes: int, prefix: str = '') -> nn.Module:
    """Returns the config's network; with the prefix 'proxy_' its proxy.

    Raises:
      ConfigError: see `create_model`; or `model_kwargs` holds what another field says.
    """
    name, kwargs = (config.proxy_model, config.proxy_model_kwargs) if prefix else (config.model, config.model_kwargs)
    elsewhere = {'name': f'{prefix}model', 'num_classes': 'dataset', 'dtype': 'dtype', 'axis_name': 'cross_device_batch_norm'}
    for field in kwargs:
        if field in elsewhere:
            raise ConfigError(f'{prefix}model_kwargs has {field}; remove it, expected it from config.{elsewhere[field]} alone')
    model = create_model(name, num_classes=num_classes, dtype=jnp.dtype(config.dtype), **kwargs)
    if not config.cross_device_batch_norm:
        return model
    if getattr(model, 'norm', 'batch') == 'none' or not hasattr(model, 'axis_name'):
        raise ConfigError(f'{name} has no BatchNorm; expected cross_device_batch_norm=False')
    return model.clone(axis_name=AXIS)


def _load_run(workdir: Path, ema: bool) -> Classifier:
    folder = workdir / 'checkpoints'
    if not folder.is_dir():
        raise InputFileError(f'no run in {workdir}: expected a run folder with checkpoints/, as training makes it')
    path = checkpoint.latest(folder, rename=False)
    if path is None:
        raise InputFileError(f'the run in {workdir} has no checkpoint yet; wait for the first, or train longer')
    metadata = checkpoint.read_metadata(path)
    if metadata.progress.best:
        path = folder / str(metadata.progress.best.step)
        try:
            checkpoint.verify(path)
        except InputFileError as error:
            raise InputFileError(
                f'{error}; it is the best on validation: to use the best of the others, delete result.json and train again'
            ) from None
    config, dataset = metadata.config, metadata.dataset
    if ema and not config.ema_decay:
        raise ConfigError(f'the run in {workdir} has no averaged parameters; expected a run with an ema_decay, or ema=False')
    try:
        model = build_model(config, len(dataset['class_names']))
    except ConfigError as error:
        plugins.check_imported(metadata.environment.get('imports', []), str(workdir), error)
        raise
    image = jax.ShapeDtypeStruct((1, *dataset['image_shape']), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    wanted = {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}
    variables = checkpoint.restore(path, {'ema': wanted} if ema else wanted)
    return create_classifier(config, model, variables['ema'] if ema else variables, dataset, int(path.name), str(workdir))


def create_classifier(
    config: TrainConfig, model: nn.Module, variables: Variables, dataset: Mapping[str, Any], step: int, path: str
) -> Classifier:
    """Returns the classifier of a run.

    Args:
      dataset: what it was trained on, as `Dataset.describe` returns it.
    """
    height, width, channels = dataset['image_shape']
    return Classifier(
        model=model,
        variables=variables,
        image_shape=(height, width, channels),
        class_names=tuple(dataset['class_names']),
        mean=tuple(dataset['mean']),
        std=tuple(dataset['std']),
        dtype=np.dtype(config.dtype),
        tta=config.tta,
        origin=Origin(config.model, config.model_kwargs, path, dataset['name'], dataset['fingerprint'], step, config),
    )
