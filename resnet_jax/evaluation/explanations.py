"""What a network looks at: Grad-CAM, input gradients, integrated gradients and the filters of the first layer.

Each explains one logit of each image: of the predicted class, or of a class that is given. Test-time augmentation is left out.
Functions that take a `Classifier` prepare the images and compile once for each batch size; the pure functions below them take
a model, its variables and normalised images, and can be jitted, mapped and exported.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.classifier import Classifier, Images
from resnet_jax.data.augment import normalize
from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.models.ensemble import Ensemble
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.typing import Variables

PREDICTED = -1  # in place of a class: the one with the largest logit

# Compiled programs of a classifier; they refer to its model, not to it.
_PROGRAMS: 'weakref.WeakKeyDictionary[Classifier, dict[object, Callable[..., jax.Array]]]' = weakref.WeakKeyDictionary()


def grad_cam(
    classifier: Classifier,
    images: Images,
    class_index: int | np.ndarray | None = None,
    layer: str | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Returns which parts of each image speak for a class: Selvaraju et al., arXiv:1610.02391, equations 1 and 2.

    Args:
      images: image files, or uint8 `[n, height, width, channels]`, as `Classifier.logits` takes them.
      class_index: the class to explain, one for all images or int `[n]`; by default of each image the predicted one.
      layer: path of the module in whose output the parts are weighted, as 'layer4_1' or 'layer4_1/conv2' (see `map_layers`);
        by default the last one with maps: of a residual network, the last block.
      batch_size: number of images per batch; fewer images make one smaller batch.

    Returns:
      float32 `[n, height, width]` at the size of the network's input, scaled so that each image's smallest value is 0 and its
      largest 1; 0 everywhere if nothing speaks for the class.

    Raises:
      ConfigError: the images, the class or the layer do not fit the network, or the network has no layer with maps.
      InputFileError: a file is not a readable image.
    """
    chosen = _map_layer(classifier, layer)
    return _explain(classifier, class_activation_maps, images, class_index, batch_size, layer=chosen)


def class_activation_maps(
    model: nn.Module, variables: Variables, inputs: jax.Array, class_index: jax.Array, layer: str
) -> jax.Array:
    """Returns Grad-CAM's maps, float32 `[n, height, width]` from 0 to 1; a pure function.

    Args:
      model: any Flax module with `apply(variables, inputs, train=False)` -> logits `[n, num_classes]`.
      inputs: `[n, height, width, channels]`, normalised.
      class_index: int32 `[n]`; `PREDICTED` stands for the class with the largest logit.
      layer: path of a module whose output is `[n, rows, columns, features]`.
    """
    shape = jax.eval_shape(lambda x: _with_layer(model, variables, x, layer)[1], inputs)

    def logits_and_maps(moved: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _with_layer(model, variables, inputs, layer, moved)

    # The gradient with respect to the maps is that of zeros added to them: nothing before the layer is differentiated.
    logits, pull_back, maps = jax.vjp(logits_and_maps, jnp.zeros(shape.shape, shape.dtype), has_aux=True)
    (gradients,) = pull_back(_one_hot(logits, class_index))
    weights = gradients.astype(jnp.float32).mean((1, 2), keepdims=True)
    evidence = jax.nn.relu((weights * maps.astype(jnp.float32)).sum(-1))
    evidence = jax.image.resize(evidence, inputs.shape[:3], 'bilinear')
    low, high = evidence.min((1, 2), keepdims=True), evidence.max((1, 2), keepdims=True)
    return jnp.where(high > low, (evidence - low) / jnp.where(high > low, high - low, 1), 0)


def map_layers(classifier: Classifier) -> dict[str, tuple[int, int, int]]:
    """Returns the modules whose outputs are maps: {path: (rows, columns, features)}, in the order in which they end.

    Without BatchNorm: the next layer sees its output only after an activation.
    """
    found: dict[str, tuple[int, int, int]] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        path = '/'.join(context.module.path)
        norm = isinstance(context.module, nn.BatchNorm)
        if path and not norm and context.method_name == '__call__' and getattr(out, 'ndim', 0) == 4:
            found[path] = out.shape[1:]
        return out

    inputs = jax.ShapeDtypeStruct((1, *classifier.image_shape), classifier.dtype)
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(classifier.model.apply, train=False), classifier.variables, inputs)
    return found


def _map_layer(classifier: Classifier, layer: str | None) -> str:
    found = map_layers(classifier)
    if layer is not None:
        if layer not in found:
            raise ConfigError(f'no layer {layer!r} with maps{did_you_mean(layer, found)}; available: {", ".join(found)}')
        return layer
    if isinstance(classifier.model, Ensemble):
        raise ConfigError('an ensemble has a last layer for each member; expected layer=PATH, or one of its members')
    if not found:
        raise ConfigError(f'{type(classifier.model).__name__} has no layer with maps; expected a convolutional network')
    return list(found)[-1]


def _with_layer(
    model: nn.Module, variables: Variables, inputs: jax.Array, layer: str, moved: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns logits and a layer's output, to which `moved` is added for all that follows."""
    outputs: list[jax.Array] = []

    def move(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == '__call__' and '/'.join(context.module.path) == layer:
            out = out if moved is None else out + moved
            outputs.append(out)
        return out

    with nn.intercept_methods(move):
        logits = model.apply(variables, inputs, train=False)
    return logits, outputs[-1]  # type: ignore[return-value]


def _one_hot(logits: jax.Array, class_index: jax.Array) -> jax.Array:
    chosen = jnp.where(class_index == PREDICTED, logits.argmax(-1), class_index)
    return jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype)


@our_settings()
def _explain(
    classifier: Classifier,
    function: Callable[..., jax.Array],
    images: Images,
    class_index: int | np.ndarray | None,
    batch_size: int,
    **options: Any,
) -> np.ndarray:
    """Calls a pure function on batches of normalised images; the last batch is padded."""
    array = classifier.read_all(images)
    classes = np.full(len(array), PREDICTED, np.int32)
    if class_index is not None:
        given, count = np.asarray(class_index), len(classifier.class_names)
        if given.dtype.kind not in 'iu' or given.shape not in ((), classes.shape) or not ((given >= 0) & (given < count)).all():
            raise ConfigError(f'class_index is {str(class_index)[:80]}; expected integers from 0 to {count - 1}')
        classes[:] = given
    key = (function, tuple(options.items()))
    programs = _PROGRAMS.setdefault(classifier, {})
    if key not in programs:
        model, mean, std, dtype = classifier.model, classifier.mean or (0.0,), classifier.std or (1.0,), classifier.dtype

        @jax.jit
        def compute(variables: Variables, batch: jax.Array, index: jax.Array) -> jax.Array:
            return function(model, variables, normalize(batch, mean, std, dtype), index, **options)

        programs[key] = compute
    size, results = max(1, min(batch_size, len(array))), []
    for start in range(0, len(array), size):
        batch, index = array[start : start + size], classes[start : start + size]
        missing = size - len(batch)
        padded = np.pad(batch, [(0, missing), (0, 0), (0, 0), (0, 0)]), np.pad(index, (0, missing))
        results.append(np.asarray(programs[key](classifier.on_device, *padded))[: len(batch)])
    if not results:
        return np.zeros((0, *classifier.image_shape[:2]), np.float32)
    return np.concatenate(results)
