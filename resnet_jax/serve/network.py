"""A served network: from a run folder, weights or an exported file."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from resnet_jax.classifier import Classifier
from resnet_jax.config import TrainConfig
from resnet_jax.data.images import read_image
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.explanations import class_activation_maps, map_layers
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.runtime.progress import progress
from resnet_jax.serve import confidence, exported
from resnet_jax.serve.program import BatchFn, Program, seconds_of
from resnet_jax.typing import Json, JsonDict, Variables

LEAST_ROWS = 4  # least number of rows of a map that is shown
_FEW = 4  # images in a batch
_FOLDED = 64 * 2**20  # bytes of weights that a program may contain, for each batch size


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A served network.

    Attributes:
      name: the name in requests.
      class_names, image_shape, resize, crop, interpolation: see `Classifier`.
      probabilities: program from images, uint8 `[n, *image_shape]`, to probabilities, float32 `[n, num_classes]`.
      maps: program from images and classes, int32 `[n]`, to Grad-CAM's maps, float32 `[n, height, width]` from 0 to 1; None
        if the network cannot be explained.
      measured: the accuracy on the test set, by confidence; None if unknown.
      facts: 'format' and, if known, 'model', 'dataset' and 'explained_layer', the layer of the maps.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    probabilities: Program
    maps: Program | None = None
    measured: confidence.Confidence | None = None
    resize: str = TrainConfig.resize
    crop: float = 1.0
    interpolation: str = 'bicubic'
    facts: Json = dataclasses.field(default_factory=dict)

    def read(self, image: bytes, name: str, most_pixels: int) -> np.ndarray:
        """Reads an image file at the network's size, uint8 `image_shape`.

        Raises:
          TooManyPixelsError, InputFileError: see `read_image`.
        """
        return read_image(image, self.image_shape, self.resize, self.crop, self.interpolation, name, most_pixels)


@our_settings()
def load_network(path: str, name: str, sizes: Sequence[int], map_sizes: Sequence[int], *, ema: bool = False) -> Network:
    """Loads a network and compiles its programs.

    Args:
      path: a run folder; a folder or file of the export command; a file of weights that names its model; or a name.
      name: the name in requests.
      sizes, map_sizes: batch sizes of the probabilities and of the maps.
      ema: load the averaged parameters of a run.

    Raises:
      ConfigError: a package is missing, or an argument does not fit; otherwise see `Classifier.load`.
      InputFileError: a file cannot be read or is damaged.
    """
    file = exported.find(Path(path))
    try:
        if file is None:
            # One view of each image: Grad-CAM and the page explain one view.
            classifier = dataclasses.replace(Classifier.load(path, ema=ema), tta='none')
            network = _of_classifier(classifier, name, sizes, map_sizes)
        elif ema:
            raise ConfigError(f'{path} is exported and has one set of parameters; expected ema=False')
        else:
            network = _of_exported(file, name, sizes)
        network.probabilities([(image,) for image in _noise(1, network.image_shape)])
    except FloatingPointError as error:
        raise InputFileError(f'{path}: {error}: its weights are damaged; use others') from None
    return network


def _of_exported(file: Path, name: str, sizes: Sequence[int]) -> Network:
    compile_for, shape, num_classes = exported.load(file)
    described = exported.describe(file, num_classes)
    facts: JsonDict = {
        'format': file.suffix[1:],
        **{key: described.pop(key) for key in ('model', 'dataset') if key in described},
    }
    with progress(f'Compiling {name}', len(sizes), 'programs') as advance:
        try:
            program = _program(compile_for, lambda size: [_noise(size, shape)], sizes, advance)
        except (ValueError, RuntimeError) as error:  # for example, it is for another platform
            raise InputFileError(f'{file} does not run here ({error}); export it again') from None
    return Network(name, tuple(described.pop('class_names')), shape, program, facts=facts, **described)


def _of_classifier(classifier: Classifier, name: str, sizes: Sequence[int], map_sizes: Sequence[int]) -> Network:
    variables, shape = classifier.compiled.on_device, classifier.image_shape
    layer = _explained_layer(classifier)
    measured = confidence.of_run(classifier)

    def compile_probabilities(size: int) -> BatchFn:
        images = _noise(size, shape)
        runs = [_compile(jax.jit(classifier.probabilities_fn), images, variables)]
        if jax.default_backend() == 'cpu' and size <= _FEW:
            runs.append(_compile_for_few(classifier, images))
        return min(runs, key=lambda run: seconds_of(run, [images]))

    def compile_maps(size: int) -> BatchFn:
        maps = classifier.compiled.of_inputs(class_activation_maps, layer=layer)
        compiled = jax.jit(maps).lower(variables, _noise(size, shape), np.zeros(size, np.int32)).compile()
        return lambda images, classes: np.asarray(compiled(variables, images, classes))

    def with_classes(size: int) -> tuple[np.ndarray, np.ndarray]:
        return _noise(size, shape), np.zeros(size, np.int32)

    total = len(sizes) + (len(map_sizes) if layer else 0)
    with progress(f'Compiling {name}', total, 'programs') as advance:
        probabilities = _program(compile_probabilities, lambda size: [_noise(size, shape)], sizes, advance)
        explained = _program(compile_maps, with_classes, map_sizes, advance) if layer else None
    origin = classifier.origin
    facts: JsonDict = {'format': 'weights', 'model': origin.model, 'dataset': origin.dataset, 'explained_layer': layer}
    how: Json = {key: getattr(classifier, key) for key in ('resize', 'crop', 'interpolation')}
    facts = {key: value for key, value in facts.items() if value}
    return Network(name, classifier.class_names, shape, probabilities, explained, measured, facts=facts, **how)


def _compile(function: jax.stages.Wrapped, images: np.ndarray, *arguments: Variables) -> BatchFn:
    compiled = function.lower(*arguments, images).compile()
    return lambda images: np.asarray(compiled(*arguments, images))


def _compile_for_few(classifier: Classifier, images: np.ndarray) -> BatchFn:
    """Returns the network in the form of an exported program, which is faster on a CPU for few images.

    The C kernels are made for the batches of training. In an exported program the weights are constants, so XLA arranges them
    for the matrix products once, not in each call; for a single image this takes longer than the products.
    """
    variables = classifier.compiled.on_device
    if sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) > _FOLDED:
        exported_program = export.export(jax.jit(classifier.probabilities_fn))(variables, images)
        return _compile(jax.jit(exported_program.call), images, variables)
    folded = functools.partial(classifier.probabilities_fn, jax.tree.map(np.asarray, variables))
    return _compile(jax.jit(export.export(jax.jit(folded))(images).call), images)


def _explained_layer(classifier: Classifier) -> str | None:
    """Returns the last layer whose maps have at least LEAST_ROWS rows, or else the layer with the largest maps.

    Returns None if no layer has maps. In some networks for small images, the last maps are single pixels, which show no place.
    """
    rows = {path: min(LEAST_ROWS, *shape[:2]) for path, shape in map_layers(classifier).items()}
    return max(reversed(rows), key=rows.__getitem__, default=None)


def _program(
    compile_for: Callable[[int], BatchFn],
    sample: Callable[[int], Sequence[np.ndarray]],
    sizes: Sequence[int],
    advance: Callable[[int], None],
) -> Program:
    runs = {}
    for size in sizes:
        runs[size] = compile_for(size)
        advance(1)
    return Program(runs, sample)


def _noise(count: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
