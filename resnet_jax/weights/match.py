"""Matches the tensors of a file with the arrays of a model, and finds the model that fits a file best."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError
from resnet_jax.models import available_models, create_model
from resnet_jax.models.resnet import SHORTCUTS, STEMS
from resnet_jax.typing import Json
from resnet_jax.weights.names import FLAX, NAMINGS, torch_name, torch_shape

Shape = tuple[int, ...]
# Models are built with this number of classes: a prime that differs from any other size, so it marks the shapes of the head.
_ANY_CLASSES = 7919
LONGEST_NAME = 500  # characters; no library has longer names
_DEEPEST = 16  # largest number of parts of a name; names of our models have half as many
_REFINED = 3  # number of models whose stems `nearest_model` tries: stems change few tensors, and all models take half a minute
_COUNTERS = ('total_ops', 'total_params')  # thop adds these to every layer of a network that it measures


@dataclasses.dataclass(frozen=True)
class Match:
    """The result of comparing a file's tensors with a model's arrays.

    Attributes use the file's names and shapes, except for `shapes` and `matched`.

    Attributes:
      num_classes: number of classes of the model; by default the file's.
      naming: the naming under which most names agree.
      shapes: {our name: shape} of every array.
      matched: {our name: the file's name} of the arrays whose name and shape agree.
      missing, unmatched: shapes of the arrays that the file lacks, and of the tensors that the model lacks.
      misshapen: the file's shape and the expected shape.
      ignored: names of tensors outside the network: counters, tensors of a loss, or of another copy of the network.
    """

    num_classes: int
    naming: str
    shapes: Mapping[str, Shape]
    matched: Mapping[str, str]
    missing: Mapping[str, Shape]
    unmatched: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]
    ignored: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every name and shape matches."""
        return not (self.missing or self.unmatched or self.misshapen)

    @property
    def total(self) -> int:
        """The number of names in the file or the model."""
        return len(self.matched) + len(self.missing) + len(self.unmatched) + len(self.misshapen)

    @property
    def score(self) -> float:
        """The share of names that match, from 0 to 1; a name with a different shape counts as half."""
        return (len(self.matched) + len(self.misshapen) / 2) / self.total

    def channels(self, expected: int) -> int | None:
        """Returns the number of image channels of the file's network, or None if it is the expected one or unclear."""
        axis, sizes = 2 if self.naming == FLAX else 1, []
        for theirs, ours in self.misshapen.values():
            alike = len(theirs) == len(ours) == 4 and theirs[:axis] + theirs[axis + 1 :] == ours[:axis] + ours[axis + 1 :]
            if alike and ours[axis] == expected:
                sizes.append(theirs[axis])
        return sizes[0] if len(sizes) == 1 else None


@functools.lru_cache(maxsize=256)
def _named_shapes(name: str, kwargs: tuple[tuple[str, str], ...], image_shape: Shape) -> dict[str, Shape]:
    """Returns `model_shapes` of a candidate; cached because building all candidates takes 10 s."""
    return model_shapes(create_model(name, num_classes=_ANY_CLASSES, **dict(kwargs)), image_shape)


def model_shapes(model: nn.Module, image_shape: Shape) -> dict[str, Shape]:
    """Returns the shapes of a model's variables by name, such as 'params/conv1/kernel'.

    Raises:
      ConfigError: the model cannot be built for images of this shape.
    """
    try:
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        tree = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    except ConfigError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:  # a file may contain absurdly large arguments
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
    _index: Mapping[str, list[str]] | None = None,
) -> Match:
    """Compares a file with a model.

    A prefix of the names ('module.', 'model.backbone.') is found automatically: the prefix under which most names are the
    model's. Names without it are ignored. If there is no prefix, the ignored names are those of modules that are not layers of
    a network, such as a loss ('criterion.weight') or the pixels' mean.

    Args:
      tensors: the shape of every tensor of the file.
      name, kwargs: the arguments of `create_model`.
      image_shape: (height, width, channels).
      num_classes: number of classes; None for the file's.

    Raises:
      ConfigError: the model or an argument is unknown, or the model cannot take images of this shape.
    """
    shapes = _built or model_shapes(create_model(name, num_classes or _ANY_CLASSES, **kwargs), image_shape)
    namings = {naming: {torch_name(ours, naming): ours for ours in shapes} for naming in (*NAMINGS, FLAX)}
    index = _index or _prefixes_of_suffixes(tensors)
    # A naming for other blocks can give two arrays the same name.
    prefixes = {naming: _votes(index, names) for naming, names in namings.items() if len(names) == len(shapes)}
    naming = max(prefixes, key=lambda naming: max(prefixes[naming].values()))
    votes, names = prefixes[naming], namings[naming]
    prefix = min(votes, key=lambda prefix: (-votes[prefix], len(prefix)))
    copies = tuple(other for other, count in votes.items() if other and other != prefix and 2 * count > votes[prefix])
    within = {prefix + key for key in names}

    def name_in_file(key: str) -> str:
        if prefix + key in tensors:
            return prefix + key
        # A head is often outside: 'backbone.conv1.weight' and 'fc.weight' or 'head.fc.weight'.
        outside = [other + key for other in index.get(key, ()) if other + key not in within and other not in copies]
        return key if key in outside else outside[0] if len(outside) == 1 else prefix + key

    files_name = {key: name_in_file(key) for key in names}

    def their_shape(ours: str) -> Shape:
        return shapes[ours] if naming == FLAX else torch_shape(shapes[ours])

    if num_classes is None:
        heads = [(their_shape(ours), tensors[files_name[key]]) for key, ours in names.items() if files_name[key] in tensors]
        sizes = [
            other[shape.index(_ANY_CLASSES)] for shape, other in heads if _ANY_CLASSES in shape and len(other) == len(shape)
        ]
        num_classes = sizes[0] if sizes else 10
        shapes = {ours: tuple(num_classes if n == _ANY_CLASSES else n for n in shape) for ours, shape in shapes.items()}
    expected = {files_name[key]: their_shape(ours) for key, ours in names.items()}
    rest = [key for key in tensors if key not in expected]
    whole = naming != FLAX and not prefix and expected.keys() <= tensors.keys()
    strays = _strays(tensors, rest, names) if whole else ()
    ignored = {
        key: None
        for key in rest
        if tensors[key] == ()
        or 0 in tensors[key]
        or key.endswith(_COUNTERS)
        or not key.startswith(prefix)
        or (not prefix and key.startswith(copies))
        or key.partition('.')[0] in strays
    }
    return Match(
        num_classes,
        naming,
        shapes,
        matched={names[key]: theirs for key, theirs in files_name.items() if tensors.get(theirs) == expected[theirs]},
        missing={key: shape for key, shape in expected.items() if key not in tensors},
        unmatched={key: tensors[key] for key in rest if key not in ignored},
        misshapen={key: (tensors[key], shape) for key, shape in expected.items() if tensors.get(key, shape) != shape},
        ignored=tuple(ignored),
    )


def _strays(tensors: Mapping[str, Shape], rest: Iterable[str], names: Iterable[str]) -> set[str]:
    """Returns the first parts of the names in `rest` that belong to modules outside the network, such as a loss.

    Excludes 'layer4' if there is a 'layer1', and modules that contain a convolution or batch normalization.
    """
    first_parts = {name.partition('.')[0].rstrip('0123456789') for name in names}
    layers = {
        key.partition('.')[0]
        for key in rest
        if key.endswith('running_mean') or (len(tensors[key]) == 4 and tensors[key][0] > 1)
    }
    parts = {key.partition('.')[0] for key in rest}
    return {part for part in parts - layers if part.rstrip('0123456789') not in first_parts}


def _prefixes_of_suffixes(tensors: Mapping[str, Shape]) -> dict[str, list[str]]:
    """Returns the prefixes of each end of a name that could be a model's name: 'fc.weight' -> ['', 'module.']."""
    index = collections.defaultdict(list)
    for key in tensors:
        parts = key[:LONGEST_NAME].split('.')
        for start in range(max(0, len(parts) - _DEEPEST), len(parts)):
            index['.'.join(parts[start:])].append(''.join(f'{part}.' for part in parts[:start]))
    return dict(index)


def _votes(index: Mapping[str, list[str]], names: Iterable[str]) -> dict[str, int]:
    """Returns the number of names that follow each prefix; '' is always included."""
    votes = collections.Counter({'': 0})
    for name in names:
        votes.update(index.get(name, ()))
    return votes


def nearest_model(tensors: Mapping[str, Shape], image_shape: Shape, first: str) -> tuple[str, dict[str, str], Match] | None:
    """Returns the name, arguments and match of the model that matches a file best; None if no model matches anything.

    Args:
      first: the model to try first.
    """
    index = _prefixes_of_suffixes(tensors)
    matches: list[tuple[str, dict[str, str], Match]] = []

    def consider(name: str, kwargs: dict[str, str]) -> bool:
        try:
            built = _named_shapes(name, tuple(kwargs.items()), tuple(image_shape))
            matches.append((name, kwargs, match(tensors, name, kwargs, image_shape, _built=built, _index=index)))
        except ConfigError:  # the images are too small for the model, or it has no such stem or shortcut
            return False
        return matches[-1][2].fits

    def best_first() -> list[tuple[str, dict[str, str], Match]]:
        return sorted(matches, key=lambda each: -each[2].score)  # if scores are equal, the first considered

    if any(consider(name, {}) for name in _candidates(tensors, first)):
        return matches[-1]
    for field, values, count in (('stem', STEMS, _REFINED), ('shortcut', SHORTCUTS, 1)):
        for name, kwargs, _ in best_first()[:count]:
            usual = getattr(create_model(name), field, None)
            if usual and any(consider(name, {**kwargs, field: value}) for value in values if value != usual):
                return matches[-1]
    return next((each for each in best_first() if each[2].score), None)


def _candidates(tensors: Mapping[str, Shape], first: str) -> Iterator[str]:
    """Yields the models, likely ones first; for speed, skips models with far fewer or more convolutions."""
    convolutions = sum(len(shape) == 4 for shape in tensors.values())

    def blocks_of(name: str) -> int:
        return sum(getattr(create_model(name), 'stage_sizes', ()))

    def order(name: str) -> tuple[bool, bool, int]:
        # A plain network has the same names and shapes as a ResNet with shortcut option A; the ResNet comes first.
        distance = min(abs(size * blocks_of(name) + 1 - convolutions) for size in (2, 3))
        return name != first, name.startswith('plain'), distance

    for name in sorted(available_models(), key=order):
        blocks = blocks_of(name)
        if not blocks or 3 * blocks <= 2 * convolutions <= 12 * (blocks + 1):
            yield name
