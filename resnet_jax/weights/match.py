"""Matches the tensors of a file with the arrays of a model, and finds the model that a file fits best."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError
from resnet_jax.models import available_models, create_model
from resnet_jax.models.resnet import STEMS
from resnet_jax.typing import Json
from resnet_jax.weights.names import FLAX, NAMINGS, torch_name, torch_shape

Shape = tuple[int, ...]
# Models are built with this number of classes, a prime that no other size equals: a shape that contains it is the head's.
_ANY_CLASSES = 7919


@dataclasses.dataclass(frozen=True)
class Match:
    """The result of comparing a file's tensors with a model's arrays.

    All attributes but `shapes` and `matched` use the file's names and shapes.

    Attributes:
      num_classes: the requested number of classes, or the file's.
      naming: the naming under which most names agree.
      shapes: our shape of every array by our name.
      matched: {our name: file's name} of the arrays whose name and shape agree.
      missing, unmatched: shapes of the arrays that only the model or only the file has.
      misshapen: (actual, expected) shapes of the arrays whose shapes differ.
    """

    num_classes: int
    naming: str
    shapes: Mapping[str, Shape]
    matched: Mapping[str, str]
    missing: Mapping[str, Shape]
    unmatched: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unmatched or self.misshapen)

    @property
    def total(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.unmatched) + len(self.misshapen)

    @property
    def score(self) -> float:
        """The share of names that match, from 0 to 1; a name with a different shape counts as half."""
        return (len(self.matched) + len(self.misshapen) / 2) / self.total


@functools.lru_cache(maxsize=256)
def _named_shapes(name: str, kwargs: tuple[tuple[str, str], ...], image_shape: Shape) -> dict[str, Shape]:
    """Returns `model_shapes` of a candidate; cached because building all candidates takes half a minute."""
    return model_shapes(create_model(name, num_classes=_ANY_CLASSES, **dict(kwargs)), image_shape)


def model_shapes(model: nn.Module, image_shape: Shape) -> dict[str, Shape]:
    """Returns the shapes of a model's variables by name, as 'params/conv1/kernel'.

    Raises:
      ConfigError: the model cannot be built, or not for images of this shape.
    """
    try:
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        tree = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    except ConfigError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:  # absurdly large arguments, which a file may contain
        raise ConfigError(
            f'{type(model).__name__} cannot be built for images {list(image_shape)} ({type(error).__name__}); '
            'expected other arguments'
        ) from None
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape for path, leaf in leaves}


def match(
    tensors: Mapping[str, Shape],
    name: str,
    kwargs: Json,
    image_shape: Shape,
    num_classes: int | None = None,
    *,
    _built: Mapping[str, Shape] | None = None,
) -> Match:
    """Compares a file with a model.

    Args:
      tensors: the shape of every tensor of the file.
      name, kwargs: as for `create_model`.
      image_shape: (height, width, channels).
      num_classes: if None, the file's.

    Raises:
      ConfigError: the model or an argument is unknown, or the model cannot take images of this shape.
    """
    shapes = _built or model_shapes(create_model(name, num_classes or _ANY_CLASSES, **kwargs), image_shape)
    namings = {naming: {torch_name(ours, naming): ours for ours in shapes} for naming in (*NAMINGS, FLAX)}
    # A naming for other blocks may give two arrays the same name.
    namings = {naming: names for naming, names in namings.items() if len(names) == len(shapes)}
    naming, names = max(namings.items(), key=lambda item: len(item[1].keys() & tensors.keys()))

    def their_shape(ours: str) -> Shape:
        return shapes[ours] if naming == FLAX else torch_shape(shapes[ours])

    if num_classes is None:
        heads = [(shape, tensors[key]) for key, ours in names.items() if key in tensors and (shape := their_shape(ours))]
        sizes = [
            other[shape.index(_ANY_CLASSES)] for shape, other in heads if _ANY_CLASSES in shape and len(other) == len(shape)
        ]
        num_classes = sizes[0] if sizes else 10
        shapes = {ours: tuple(num_classes if n == _ANY_CLASSES else n for n in shape) for ours, shape in shapes.items()}
    expected = {key: their_shape(ours) for key, ours in names.items()}
    return Match(
        num_classes,
        naming,
        shapes,
        matched={names[key]: key for key, shape in expected.items() if tensors.get(key) == shape},
        missing={key: shape for key, shape in expected.items() if key not in tensors},
        unmatched={key: shape for key, shape in tensors.items() if key not in expected},
        misshapen={key: (tensors[key], shape) for key, shape in expected.items() if tensors.get(key, shape) != shape},
    )


def nearest_model(tensors: Mapping[str, Shape], image_shape: Shape) -> tuple[str, dict[str, str], Match] | None:
    """Returns the name, arguments and match of the model with the highest score for a file; None if all scores are 0."""
    best = None
    for name, kwargs in _candidates(tensors):
        try:
            built = _named_shapes(name, tuple(kwargs.items()), tuple(image_shape))
            candidate = match(tensors, name, kwargs, image_shape, _built=built)
        except ConfigError:  # the images are too small for this model
            continue
        if candidate.score > (best[2].score if best else 0):
            best = name, kwargs, candidate
            if not (candidate.missing or candidate.unmatched or candidate.misshapen):
                break
    return best


def _candidates(tensors: Mapping[str, Shape]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields models and stems, likely ones first; skips models with far fewer or far more convolutions, to save time."""
    convolutions = sum(len(shape) == 4 for shape in tensors.values())

    def blocks_of(name: str) -> int:
        return sum(getattr(create_model(name), 'stage_sizes', ()))

    def order(name: str) -> tuple[bool, int]:
        # A plain network has the same names and shapes as a ResNet with shortcut option A: prefer the ResNet.
        return name.startswith('plain'), min(abs(size * blocks_of(name) + 1 - convolutions) for size in (2, 3))

    for name in sorted(available_models(), key=order):
        model, blocks = create_model(name), blocks_of(name)
        if blocks and not blocks <= convolutions <= 6 * blocks + 6:
            continue
        yield name, {}
        for stem in STEMS if hasattr(model, 'stem') else ():
            if stem != model.stem:
                yield name, {'stem': stem}
