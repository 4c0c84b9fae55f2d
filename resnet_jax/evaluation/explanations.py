"""Explains a network's predictions: Grad-CAM, input gradients, integrated gradients and the filters of the first layer.

Each method explains one logit of each image: that of the predicted class or of a given class. Test-time augmentation is not
applied. Functions that take a `Classifier` prepare the images and compile once for each batch size. The pure functions take a
model, its variables and normalised images, and can be jitted, mapped and exported.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.classifier import Classifier, Images
from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.models import features
from resnet_jax.models.checks import check_positive_int
from resnet_jax.models.ensemble import Ensemble
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.typing import Variables

PREDICTED = -1  # in place of a class: the one with the largest logit


def grad_cam(
    classifier: Classifier,
    images: Images,
    class_index: int | np.ndarray | None = None,
    layer: str | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Returns how strongly each part of an image supports a class: Selvaraju et al., arXiv:1610.02391, equations 1 and 2.

    Args:
      images: image files, or uint8 `[n, height, width, channels]`, as `Classifier.logits` takes them.
      class_index: the class to explain, one int for all images or int `[n]`; by default each image's predicted class.
      layer: path of the module whose output is weighted, such as 'layer4_1' or 'layer4_1/conv2' (see `map_layers`); by default
        the last one with maps, which is the last block of a residual network.
      batch_size: number of images per batch; if there are fewer images, they are one smaller batch.

    Returns:
      float32 `[n, height, width]` at the size of the network's input, scaled so that the smallest value of each image is 0 and
      the largest is 1; 0 everywhere if nothing supports the class.

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


def input_gradients(
    classifier: Classifier, images: Images, class_index: int | np.ndarray | None = None, batch_size: int = 32
) -> np.ndarray:
    """Returns how the logit of a class changes with each value of an image: Simonyan et al., arXiv:1312.6034, section 3.

    For arguments and errors see `grad_cam`.

    Returns:
      float32 `[n, height, width, channels]`: the gradient, in logits per unit of a pixel scaled to [0, 1].
    """
    gradients = _explain(classifier, logit_gradients, images, class_index, batch_size)
    return np.asarray(gradients / np.array(classifier.std or (1.0,), np.float32))


def logit_gradients(model: nn.Module, variables: Variables, inputs: jax.Array, class_index: jax.Array) -> jax.Array:
    """Returns the gradients of logits with respect to `inputs`, float32; a pure function, like `class_activation_maps`."""
    apply: Callable[[jax.Array], Any] = functools.partial(model.apply, variables, train=False)
    logits, pull_back = jax.vjp(apply, inputs)
    gradients: jax.Array = pull_back(_one_hot(logits, class_index))[0]
    return gradients.astype(jnp.float32)


def integrated_gradients(
    classifier: Classifier,
    images: Images,
    class_index: int | np.ndarray | None = None,
    baseline: np.ndarray | None = None,
    steps: int = 50,
    batch_size: int = 32,
) -> np.ndarray:
    """Returns how much each value of an image adds to the logit of a class: Sundararajan et al., arXiv:1703.01365, section 3.

    The gradients are integrated along the straight line from a baseline to the image by Gauss-Legendre quadrature. The sum over
    an image is the difference between its logit and the baseline's (completeness, section 3), up to the error of the
    quadrature, which decreases with more steps.

    Args:
      baseline: uint8 `[height, width, channels]`, an image without information; by default black.
      steps: number of points of the quadrature; each costs as much as `input_gradients`.

    Returns:
      float32 `[n, height, width, channels]`, in logits.

    Raises:
      ConfigError: the baseline is not an image of the network's size, or steps is not positive; for other errors see
        `grad_cam`.
    """
    start = np.zeros(classifier.image_shape, np.uint8) if baseline is None else np.asarray(baseline)
    if start.shape != tuple(classifier.image_shape) or start.dtype != np.uint8:
        shape = list(classifier.image_shape)
        raise ConfigError(f'the baseline is {start.dtype}{list(start.shape)}; expected one image, uint8 {shape}')
    check_positive_int('steps', steps)
    return _explain(classifier, path_integral, images, class_index, batch_size, start, steps=steps)


def path_integral(
    model: nn.Module, variables: Variables, inputs: jax.Array, class_index: jax.Array, baseline: jax.Array, steps: int
) -> jax.Array:
    """Returns integrated gradients, float32 like `inputs`; a pure function.

    Args:
      baseline: `[height, width, channels]`, normalised like `inputs`.
    """
    logits: jax.Array = model.apply(variables, inputs, train=False)  # type: ignore[assignment]
    chosen = _classes(logits, class_index)  # those predicted for the images, not for the points of their paths
    points, weights = np.polynomial.legendre.leggauss(steps)
    start, way = baseline.astype(jnp.float32)[None], (inputs - baseline[None]).astype(jnp.float32)

    def add(total: jax.Array, point: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, weight = point
        x = (start + place * way).astype(inputs.dtype)
        return total + weight * logit_gradients(model, variables, x, chosen), None

    # From [-1, 1] to [0, 1]. One point after the other: the memory is that of one gradient.
    places = jnp.asarray((points + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32)
    return way * jax.lax.scan(add, jnp.zeros_like(way), places)[0]


def compute_features(classifier: Classifier, images: Images, batch_size: int = 100) -> np.ndarray:
    """Returns the input of the last linear layer, float32 `[n, features]`.

    Raises:
      ConfigError: the network has no features: see `models.features`.
    """
    return _explain(classifier, _pooled, images, None, batch_size)


def _pooled(model: nn.Module, variables: Variables, inputs: jax.Array, class_index: jax.Array) -> jax.Array:
    return features(model, variables, inputs)['pooled']


def first_filters(classifier: Classifier) -> np.ndarray | None:
    """Returns the kernels of the first convolution, float32 `[filters, height, width, channels]`; None if there is none."""
    for path in map_layers(classifier):
        node = classifier.variables['params']
        for name in path.split('/'):
            node = node.get(name, {})
        if np.ndim(node.get('kernel', 0)) == 4:
            return np.moveaxis(np.asarray(node['kernel'], np.float32), -1, 0)
    return None


def map_layers(classifier: Classifier) -> dict[str, tuple[int, int, int]]:
    """Returns the modules whose outputs are maps: {path: (rows, columns, features)}, in the order in which their calls return.

    BatchNorm is left out, because the next layer gets its output only after an activation.
    """
    layers: dict[str, tuple[int, int, int]] = {}

    def record(
        call: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: nn.module.InterceptorContext
    ) -> object:
        out = call(*args, **kwargs)
        path = '/'.join(context.module.path)
        norm = isinstance(context.module, nn.BatchNorm)
        if path and not norm and context.method_name == '__call__' and isinstance(out, jax.Array) and out.ndim == 4:
            _, rows, columns, channels = out.shape
            layers[path] = rows, columns, channels
        return out

    inputs = jax.ShapeDtypeStruct((1, *classifier.image_shape), classifier.dtype)
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(classifier.model.apply, train=False), classifier.variables, inputs)
    return layers


def _map_layer(classifier: Classifier, layer: str | None) -> str:
    layers = map_layers(classifier)
    if layer is not None:
        if layer not in layers:
            raise ConfigError(f'no layer {layer!r} with maps{did_you_mean(layer, layers)}; available: {", ".join(layers)}')
        return layer
    if isinstance(classifier.model, Ensemble):
        raise ConfigError('an ensemble has a last layer for each member; expected layer=PATH, or one of its members')
    if not layers:
        raise ConfigError(f'{type(classifier.model).__name__} has no layer with maps; expected a convolutional network')
    return list(layers)[-1]


def _with_layer(
    model: nn.Module, variables: Variables, inputs: jax.Array, layer: str, moved: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns logits and a layer's output; `moved` is added to the output before later layers use it."""
    outputs: list[jax.Array] = []

    def move(
        call: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: nn.module.InterceptorContext
    ) -> object:
        out = call(*args, **kwargs)
        if isinstance(out, jax.Array) and context.method_name == '__call__' and '/'.join(context.module.path) == layer:
            out = out if moved is None else out + moved
            outputs.append(out)
        return out

    with nn.intercept_methods(move):
        logits = model.apply(variables, inputs, train=False)
    return logits, outputs[-1]  # type: ignore[return-value]


def _one_hot(logits: jax.Array, class_index: jax.Array) -> jax.Array:
    return jax.nn.one_hot(_classes(logits, class_index), logits.shape[-1], dtype=logits.dtype)


def _classes(logits: jax.Array, class_index: jax.Array) -> jax.Array:
    return jnp.where(class_index == PREDICTED, logits.argmax(-1), class_index)


@our_settings()
def _explain(
    classifier: Classifier,
    function: Callable[..., jax.Array],
    images: Images,
    class_index: int | np.ndarray | None,
    batch_size: int,
    *more: np.ndarray,
    **options: object,
) -> np.ndarray:
    """Applies a pure function to normalised batches of images and of `more`."""
    array = classifier.read_all(images)
    classes = np.full(len(array), PREDICTED, np.int32)
    if class_index is not None:
        given, count = np.asarray(class_index), len(classifier.class_names)
        if given.dtype.kind not in 'iu' or given.shape not in ((), classes.shape) or not ((given >= 0) & (given < count)).all():
            raise ConfigError(f'class_index is {str(class_index)[:80]}; expected integers from 0 to {count - 1}')
        classes[:] = given
    result: np.ndarray = classifier.compiled.over_batches(function, [array, classes], batch_size, *more, **options)
    return result
