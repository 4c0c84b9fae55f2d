"""`Classifier`: a trained network with its preprocessing and class names."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from resnet_jax.config import RESIZE, TrainConfig
from resnet_jax.data.augment import TTA
from resnet_jax.data.images import INTERPOLATIONS, read_image
from resnet_jax.data.normalization import find_normalization
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.forward import CompiledForward
from resnet_jax.models.checks import check_choice
from resnet_jax.models.ensemble import Ensemble
from resnet_jax.network import model_kwargs, restore_network
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.typing import Json, JsonDict, Variables
from resnet_jax.weights import save_safetensors, save_torch
from resnet_jax.weights.find import SUFFIXES, is_run, load_weights
from resnet_jax.weights.transfer import convert_channels, with_new_head

if TYPE_CHECKING:
    from resnet_jax.data import Dataset
    from resnet_jax.training.api import TrainingResult

Images = Sequence[str | Path] | np.ndarray | jax.Array | ImagesOnDemand


class Prediction(NamedTuple):
    """The most probable class of an image, and the probabilities of all classes, float32 `[num_classes]`."""

    name: str
    probability: float
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a classifier comes from.

    Attributes:
      model, model_kwargs: the arguments with which `create_model` makes its network.
      path: the run folder, file or name that it was loaded from.
      dataset, fingerprint: name and fingerprint of the data set that it was trained on; '' if unknown.
      step: number of training steps; None if unknown.
      config: the config of the run; None if the classifier does not come from a run.
      ema: whether the parameters are the run's averaged ones.
      licence: the licence of published weights, as an identifier of the Hugging Face Hub; '' if unknown.
      file: the file of weights that it was loaded from (in the cache, for weights by name); '' if there is none.
    """

    model: str
    model_kwargs: Json
    path: str = ''
    dataset: str = ''
    fingerprint: str = ''
    step: int | None = None
    config: TrainConfig | None = None
    ema: bool = False
    licence: str = ''
    file: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with its preprocessing and its classes.

    Its methods take image files of any size, which they resize, or a uint8 array `[n, height, width, channels]`; both are
    normalised. Logits, probabilities and predictions are computed by the compiled program that evaluation uses too: averaged
    over the views of `tta`, with the C kernels on a CPU.

    To send a classifier to another process, save and load it: most models contain JAX functions, which cannot be pickled.

    Attributes:
      model, variables: the arguments of `model.apply(variables, images, train=False)`; variables are {'params', 'batch_stats'}.
      image_shape: (height, width, channels) of the images that it was trained on.
      class_names: one for each logit.
      mean, std: mean and standard deviation of pixels scaled to [0, 1], one number for all channels or one for each. Both are
        None if they are unknown; the network's input is then the scaled pixels.
      dtype: dtype of the network's input.
      tta: test-time augmentation, 'none', 'mirror' or 'mirror_translate': see `data.augment.tta_logits`.
      resize, crop, interpolation: how image files are resized to `image_shape`: see `data.images.read_image`.
      origin: where it comes from.

    Raises:
      ConfigError: class names, mean or std do not fit the network or its images, or `tta`, `resize`, `crop` or `interpolation`
        is invalid.
    """

    model: nn.Module
    variables: Variables
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))
    tta: str = 'none'
    resize: str = TrainConfig.resize
    crop: float = 1.0
    interpolation: str = 'bicubic'
    origin: Origin = Origin('', {})

    def __post_init__(self) -> None:
        check_choice('tta', self.tta, tuple(TTA))
        check_choice('resize', self.resize, RESIZE)
        check_choice('interpolation', self.interpolation, tuple(INTERPOLATIONS))
        if not 0 < self.crop <= 1:
            raise ConfigError(f'crop is {self.crop}; expected a share of the image, above 0 and at most 1')
        num_classes, channels = getattr(self.model, 'num_classes', len(self.class_names)), self.image_shape[-1]
        if num_classes != len(self.class_names):
            raise ConfigError(f'{len(self.class_names)} class names for {num_classes} classes; expected one for each')
        if self.mean is None and self.std is None:
            return
        mean, std = self.mean or (), self.std or ()
        if not {len(mean), len(std)} <= {1, channels} or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ConfigError(
                f'mean {self.mean} and std {self.std} are not for images of {channels} channels; '
                'expected finite numbers, one for all or one for each, std above 0'
            )

    def __getstate__(self) -> JsonDict:
        # Without the cached compiled functions and device arrays.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

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
        """Loads a run folder, a file of weights (.pth, .pt, .th or .safetensors; torch is not needed) or weights by name.

        From a run folder, loads the last checkpoint or, if the run held out a validation split, the best one. An existing path
        is always treated as a path, not as a name. Weights by name are downloaded once: see `weights.hub`.

        Args:
          path: a run folder; a file; a folder that `export` made for the Hugging Face Hub; a name of `available_weights()`,
            such as 'timm/resnet50.a1_in1k'; or 'hf://OWNER/REPOSITORY', for such a folder on the hub.
          ema: load the averaged parameters; from a file, those in an entry such as 'state_dict_ema'.
          model, image_shape, num_classes: for files that `save` did not write: see `weights.load_variables`.
          normalization: for files: 'imagenet', 'cifar10', ... (see data/normalization.py); by default the one in the file. If
            there is none, mean and std are None.
          **model_kwargs: attributes of the model, for files that `save` did not write.

        Raises:
          InputFileError: the path does not exist, is damaged or holds another model; or the weights cannot be downloaded, or
            differ from the published ones.
          ConfigError: an argument is unknown or does not fit the file, or there are no weights with this name.
          ResourceError: the cache for downloaded weights cannot be written.
        """
        if is_run(str(path)):
            if model or image_shape or num_classes or normalization or model_kwargs:
                raise ConfigError(f'{path} is a run folder, which knows its model; expected no other argument than ema')
            return load_run(path, ema=ema)
        given = find_normalization(normalization) if normalization else None
        file, built, variables, facts = load_weights(
            str(path), model, image_shape=image_shape, num_classes=num_classes, ema=ema, **model_kwargs
        )
        dtype = np.dtype(facts.get('dtype', 'float32'))
        names = facts.get('class_names') or map(str, range(facts['num_classes']))
        height, width, channels = facts['image_shape']
        licence, dataset = facts.get('licence', ''), facts.get('dataset', '')
        try:
            classifier = cls(
                model=built if dtype == np.float32 else built.clone(dtype=dtype),
                variables=variables,
                image_shape=(height, width, channels),
                class_names=tuple(names),
                mean=tuple(facts['mean']) if 'mean' in facts else None,
                std=tuple(facts['std']) if 'std' in facts else None,
                dtype=dtype,
                origin=Origin(facts['model'], facts['model_kwargs'], str(path), dataset, licence=licence, file=str(file)),
                **{name: facts[name] for name in ('tta', 'resize', 'crop', 'interpolation') if name in facts},
            )
        except ConfigError as error:
            raise InputFileError(f'{file} describes its weights wrongly: {error}') from None
        return dataclasses.replace(classifier, mean=given[0], std=given[1]) if given else classifier

    @classmethod
    def ensemble(cls, members: Sequence['Classifier']) -> 'Classifier':
        """Returns the classifier whose logits are the mean of the members' logits; they may be different networks.

        Raises:
          ConfigError: there are no members, or they differ in image_shape, class_names, mean, std, dtype, tta, resize, crop or
            interpolation.
        """
        if not members:
            raise ConfigError('the ensemble has no members; expected at least one classifier')
        first = members[0]
        for number, member in enumerate(members[1:], 2):
            for name in ('image_shape', 'class_names', 'mean', 'std', 'dtype', 'tta', 'resize', 'crop', 'interpolation'):
                ours, theirs = getattr(first, name), getattr(member, name)
                if ours != theirs:
                    raise ConfigError(
                        f'member {number} of the ensemble has {name} {str(theirs)[:80]} and the first {str(ours)[:80]}; '
                        'expected equal ones'
                    )
        kinds = sorted({kind for member in members for kind in member.variables})
        variables = {
            kind: {f'members_{i}': member.variables[kind] for i, member in enumerate(members) if kind in member.variables}
            for kind in kinds
        }
        origin = Origin('', {}, dataset=first.origin.dataset, fingerprint=first.origin.fingerprint)
        model = Ensemble(tuple(member.model for member in members))
        return dataclasses.replace(first, model=model, variables=variables, origin=origin)

    def finetune(self, dataset: 'str | Dataset', workdir: str | Path, **options: Any) -> 'TrainingResult':
        """Trains this network on another data set: `resnet_jax.finetune(self, dataset, workdir, **options)`.

        Returns:
          The result of the run; its `classifier` has the new network.
        """
        # The one import of a layer above, in the method that cannot be without it; tests/test_layers.py allows no other.
        from resnet_jax.training.loop import finetune

        return finetune(self, dataset, workdir, **options)

    @our_settings()
    def with_classes(
        self, class_names: Sequence[str], *, image_shape: tuple[int, int, int] | None = None, seed: int = 0
    ) -> 'Classifier':
        """Returns this classifier with a new head, as the start of your own training loop.

        The head is initialised as by `model.init`; all other parameters and statistics are those of this classifier. Train the
        result's `model` and `variables`.

        Args:
          class_names: the class names of the new head.
          image_shape: (height, width, channels) of the new images. For another number of channels the first kernel is
            summed or repeated (see `weights.transfer`), and mean and std are averaged.
          seed: the seed that initialises the head.

        Raises:
          ConfigError: the model has no attribute `num_classes`.
          InputFileError: the shapes of the model's parameters depend on the size of the images, and the size differs.
        """
        if not hasattr(self.model, 'num_classes'):
            raise ConfigError(f'{type(self.model).__name__} has no attribute num_classes; expected a model with one')
        shape = image_shape or self.image_shape
        model = self.model.clone(num_classes=len(class_names))
        mean, std = (values and convert_channels(values, shape[-1]) for values in (self.mean, self.std))
        return dataclasses.replace(
            self,
            model=model,
            variables=with_new_head(self.variables, model, shape, seed),
            image_shape=shape,
            class_names=tuple(class_names),
            mean=mean,
            std=std,
            origin=Origin(self.origin.model, self.origin.model_kwargs, self.origin.path),
        )

    def save(self, path: str | Path, *, naming: str | None = None) -> None:
        """Writes the weights as .safetensors, which `load` reads without other arguments, or as .pth, .pt or .th for PyTorch.

        Args:
          naming: for PyTorch files, the naming scheme of the parameters: see `weights.save_torch`.

        Raises:
          ConfigError: the suffix or the naming is unknown; or the file is .safetensors and the name of the model is unknown.
          ResourceError: the file cannot be written.
        """
        suffix = Path(path).suffix
        if suffix not in SUFFIXES:
            raise ConfigError(f'unknown format of {str(path)!r}; expected a name that ends with {", ".join(SUFFIXES)}')
        if suffix == '.safetensors':
            save_safetensors(path, self.variables, self.describe())
        else:
            save_torch(path, self.model, self.variables, naming)

    def describe(self) -> JsonDict:
        """Returns the JSON-like metadata of a .safetensors file, with which `load` needs no other arguments.

        Raises:
          ConfigError: the name of the model is unknown.
        """
        if not self.origin.model:
            raise ConfigError('the classifier does not know its model by name; expected origin=Origin(name, model_kwargs)')
        return {
            'model': self.origin.model,
            'model_kwargs': dict(self.origin.model_kwargs),
            'num_classes': len(self.class_names),
            'image_shape': list(self.image_shape),
            'class_names': list(self.class_names),
            'dtype': np.dtype(self.dtype).name,
            'tta': self.tta,
            'resize': self.resize,
            **({'mean': list(self.mean), 'std': list(self.std)} if self.mean and self.std else {}),
            **({'dataset': self.origin.dataset} if self.origin.dataset else {}),
            **({'licence': self.origin.licence} if self.origin.licence else {}),
            **({'crop': self.crop} if self.crop != 1 else {}),
            **({'interpolation': self.interpolation} if self.interpolation != 'bicubic' else {}),
        }

    @functools.cached_property
    def compiled(self) -> CompiledForward:
        """The forward pass of the methods below, compiled when it is first used."""
        return CompiledForward(self.model, self.variables, self.mean, self.std, self.dtype, self.tta)

    @property
    def logits_fn(self) -> Callable[[Variables, jax.Array], jax.Array]:
        """A traceable function from variables and uint8 images `[n, height, width, channels]` to float32 logits."""
        return self.compiled.logits_fn

    @property
    def probabilities_fn(self) -> Callable[[Variables, jax.Array], jax.Array]:
        """Like `logits_fn`, but returns probabilities."""
        return self.compiled.probabilities_fn

    def logits(self, images: Images, batch_size: int = TrainConfig.eval_batch_size) -> np.ndarray:
        """Returns float32 logits `[n, num_classes]` of image files or uint8 images.

        Args:
          batch_size: number of images per batch; if there are fewer images, they are one smaller batch.

        Raises:
          ConfigError: the images do not have the dtype or shape that the network takes.
          InputFileError: a file is not a readable image.
        """
        return self._compute(images, batch_size)[0]

    def log_probabilities(self, images: Images, batch_size: int = TrainConfig.eval_batch_size) -> np.ndarray:
        """Returns the natural logarithms of the probabilities, float32; otherwise like `logits`."""
        return self._compute(images, batch_size)[1]

    def probabilities(self, images: Images, batch_size: int = TrainConfig.eval_batch_size) -> np.ndarray:
        """Returns float32 probabilities; otherwise like `logits`."""
        probabilities: np.ndarray = np.exp(self.log_probabilities(images, batch_size))
        return probabilities

    def predict(self, images: Images, batch_size: int = TrainConfig.eval_batch_size) -> list[Prediction]:
        """Classifies image files of any size, or uint8 images; otherwise like `logits`."""
        probabilities = self.probabilities(images, batch_size)
        best = probabilities.argmax(axis=1)
        return [Prediction(self.class_names[i], float(row[i]), row) for i, row in zip(best, probabilities, strict=True)]

    @our_settings()
    def features(self, images: Images) -> dict[str, jax.Array]:
        """Returns the network's intermediate outputs, computed in a single batch without `tta`: see `models.features`."""
        return self.compiled.features(self.read_all(images)[:])

    def read(self, path: str | Path) -> np.ndarray:
        """Reads an image file at the network's size, uint8 `[height, width, channels]`: see `data.images.read_image`."""
        return read_image(path, self.image_shape, self.resize, self.crop, self.interpolation)

    def read_all(self, images: Images) -> np.ndarray | ImagesOnDemand:
        """Reads images at the network's size, uint8 `[n, height, width, channels]`; for errors see `logits`."""
        if isinstance(images, ImagesOnDemand):
            return images
        if isinstance(images, np.ndarray | jax.Array):
            if images.dtype != np.uint8 or images.shape[1:] != tuple(self.image_shape):
                shape = ', '.join(map(str, self.image_shape))
                raise ConfigError(f'images are {images.dtype}{list(images.shape)}; expected uint8 [n, {shape}]')
            return np.asarray(images)
        paths = [] if isinstance(images, str | Path) else list(images)
        if isinstance(images, str | Path) or not all(isinstance(path, str | Path) for path in paths):
            raise ConfigError(f'images are {str(images)[:80]!r}; expected a list of image files or a uint8 array')
        files = [self.read(path) for path in paths]
        return np.stack(files) if files else np.zeros((0, *self.image_shape), np.uint8)

    @our_settings()
    def _compute(self, images: Images, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits and their log-softmax."""
        logits, log_probabilities = self.compiled.logits(self.read_all(images), batch_size)
        if not np.isfinite(logits).all():
            raise InputFileError(
                f'the logits of {self.origin.path or "the network"} are not finite: its weights are damaged; use others'
            )
        return logits, log_probabilities


def load_run(workdir: str | Path, *, ema: bool = False) -> Classifier:
    """Like `Classifier.load`, but only for a run folder."""
    metadata, step, model, variables = restore_network(workdir, ema=ema)
    return create_classifier(metadata.config, model, variables, metadata.dataset, step, str(workdir), ema=ema)


def create_classifier(
    config: TrainConfig,
    model: nn.Module,
    variables: Variables,
    dataset: Json,
    step: int,
    path: str,
    *,
    ema: bool = False,
) -> Classifier:
    """Returns the classifier of a run.

    Args:
      dataset: the facts about its training data, as `Dataset.describe` returns them.
      step: number of training steps.
      path: the run folder.
      ema: whether the variables are the averaged ones.
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
        resize=config.resize,
        crop=config.test_crop,
        interpolation=LoadOptions.of(config).interpolation,
        origin=Origin(
            config.model,
            model_kwargs(config, dataset['image_shape']),
            path,
            dataset['name'],
            dataset['fingerprint'],
            step,
            config,
            ema,
        ),
    )
