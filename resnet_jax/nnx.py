"""The networks as modules of Flax NNX: `create_model('resnet18', rngs=nnx.Rngs(0))`.

A `Network` gives the same results as the linen network of that name. Its layers are `nnx.Conv`, `nnx.Linear` and a subclass of
`nnx.BatchNorm` with a custom gradient, and have the names of the linen parameters: `network.layer1_0.conv1.kernel`. Any layer
can be replaced by a module that takes the same input: `network.fc = nnx.Linear(512, 3, rngs=rngs)`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from resnet_jax import models
from resnet_jax.errors import ConfigError
from resnet_jax.models import batch_norm
from resnet_jax.models.layers import bias_in_float32
from resnet_jax.runtime.devices import options_for_init
from resnet_jax.typing import Variables

__all__ = ['BatchNorm', 'Block', 'Network', 'create_model', 'from_linen', 'to_linen']

Path = tuple[str, ...]  # of a layer: ('layer1_0', 'conv1')
_KEYWORDS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv: (
        *('kernel_size', 'strides', 'padding', 'input_dilation', 'kernel_dilation', 'feature_group_count', 'use_bias'),
        *('dtype', 'param_dtype', 'precision', 'kernel_init', 'bias_init', 'conv_general_dilated', 'promote_dtype'),
    ),
    nn.Dense: ('use_bias', 'dtype', 'param_dtype', 'precision', 'kernel_init', 'bias_init', 'promote_dtype'),
    **dict.fromkeys(
        (batch_norm.BatchNorm, nn.BatchNorm),
        (
            *('axis', 'momentum', 'epsilon', 'dtype', 'param_dtype', 'use_bias', 'use_scale', 'bias_init', 'scale_init'),
            *('axis_name', 'axis_index_groups', 'use_fast_variance'),
        ),
    ),
}


class Block(nnx.Module):
    """A part of a network; its attributes are its layers."""


class BatchNorm(nnx.BatchNorm):
    """NNX's BatchNorm, with the gradient of `models.batch_norm.BatchNorm`, which reads the activations only twice."""

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None) -> jax.Array:
        """Returns the normalised array, like `nnx.BatchNorm`."""
        running = self.use_running_average if use_running_average is None else use_running_average
        if running or mask is not None:
            normalized: jax.Array = super().__call__(x, running, mask=mask)
            return normalized
        scale = jnp.ones(self.mean.shape) if self.scale is None else self.scale[...]
        bias = jnp.zeros(self.mean.shape) if self.bias is None else self.bias[...]
        y, mean, var = batch_norm.normalize(x, scale, bias, self.epsilon, self.axis_name)
        for average, new in ((self.mean, mean), (self.var, var)):
            new = self.momentum * average[...] + (1 - self.momentum) * new.astype(average[...].dtype)
            average[...] = jax.lax.stop_gradient(new)
        return y.astype(self.dtype or x.dtype)


class Network(Block):
    """A network, made by `create_model` or `from_linen`.

    As usual in NNX, `train()` and `eval()` set whether BatchNorm uses the statistics of the batch and updates the running ones,
    and whether dropout and stochastic depth are on. A new network is in training mode. Both methods also work on a single
    layer.

    Attributes:
      linen: the linen network, which defines how the layers are connected.
      image_shape: (height, width, channels) of the images for which the network was made; most networks take other sizes too.
      deterministic: whether dropout and stochastic depth are off.
      dropout_rng: the stream of keys for dropout and stochastic depth; None if the network has neither.
    """

    def __init__(self, linen: nn.Module, image_shape: Sequence[int], layers: Mapping[Path, nnx.Module | jax.Array]) -> None:
        """Takes the layers, and parameters outside of them, by path."""
        self.linen = linen
        self.image_shape = tuple(image_shape)
        self.deterministic = False
        self.dropout_rng: nnx.RngStream | None = nnx.data(None)
        self._layers = tuple(path for path, layer in layers.items() if isinstance(layer, nnx.Module))
        for (*outer, name), layer in layers.items():
            block: Block = self
            for part in outer:
                if not hasattr(block, part):
                    setattr(block, part, Block())
                block = getattr(block, part)
            setattr(block, name, layer)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode of a copy that `nnx.view` makes."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits `[batch, num_classes]` of normalised images `[batch, height, width, channels]`."""

        def call(
            method: Callable[..., object],
            args: tuple[jax.Array, ...],
            kwargs: dict[str, object],
            context: nn.module.InterceptorContext,
        ) -> object:
            if context.method_name == '__call__' and context.module.path in self._layers:
                return functools.reduce(getattr, context.module.path, self)(args[0])
            return method(*args, **kwargs)

        state = flatten_dict(nnx.to_pure_dict(nnx.state(self, nnx.Param)))
        params = {path: array for path, array in state.items() if path[:-1] not in self._layers}
        rngs = {'dropout': self.dropout_rng()} if self.dropout_rng and not self.deterministic else {}
        with nn.intercept_methods(call):
            logits: Any = self.linen.apply({'params': unflatten_dict(params)}, images, train=not self.deterministic, rngs=rngs)
        return logits  # type: ignore[no-any-return]


def create_model(
    name: str,
    num_classes: int = 10,
    *,
    rngs: nnx.Rngs,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    **kwargs: object,
) -> Network:
    """Returns the network called `name`, with the parameters that linen's `init` returns for the key `rngs.params()`.

    Args:
      name, num_classes: see `resnet_jax.create_model`.
      rngs: gives the key of the parameters and, if the network has dropout or stochastic depth, the stream 'dropout'.
      image_shape: (height, width, channels) of the images.
      **kwargs: see `resnet_jax.create_model`.

    Raises:
      ConfigError: the name or a keyword is unknown, a value is out of range, the images are too small for the network, or rngs
        lacks a stream.
    """
    linen = models.create_model(name, num_classes, **kwargs)
    _check_image_shape(image_shape)
    _check_stream(rngs, 'params')
    key = rngs.params()
    init = jax.jit(functools.partial(linen.init, train=False), compiler_options=options_for_init(key))
    return from_linen(linen, init(key, jnp.zeros((1, *image_shape))), rngs=rngs, image_shape=image_shape)


def from_linen(
    linen: nn.Module,
    variables: Variables,
    *,
    rngs: nnx.Rngs | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Network:
    """Returns an NNX network with the layers and variables of a linen network, such as those of a `Classifier`.

    Args:
      linen: a network of this package, or one that is called in the same way. Layers other than Conv, Dense and BatchNorm stay
        linen modules; the NNX network holds their parameters.
      variables: {'params', 'batch_stats'}.
      rngs: gives the stream 'dropout'; needed if the network has dropout or stochastic depth.
      image_shape: (height, width, channels) of the images.

    Raises:
      ConfigError: rngs is missing, image_shape or the variables do not fit the network, or the network has variables other than
        parameters and the statistics of BatchNorm.
    """
    _check_image_shape(image_shape)
    if not isinstance(linen, nn.Module) or not isinstance(variables, Mapping):
        got = f'{type(linen).__name__} and {type(variables).__name__}'
        raise ConfigError(f"expected a network of linen and its {{'params', 'batch_stats'}}, not {got}")
    wanted, modules, random = _trace(linen, image_shape)
    arrays = {kind: flatten_dict(variables.get(kind, {})) for kind in ('params', 'batch_stats')}
    own = {path for path in arrays['batch_stats'] if path[:-1] not in modules} | (variables.keys() - arrays.keys())
    if own:
        names = ', '.join(sorted(map(str, own))[:3])
        raise ConfigError(f'the network has other variables, {names}; expected parameters and the statistics of BatchNorm')
    if different := _different_shape(variables, wanted):
        raise ConfigError(f'variable {different}, as {type(linen).__name__} has for images of {image_shape}')
    if random:
        if rngs is None:
            raise ConfigError('the network has dropout or stochastic depth; expected rngs=nnx.Rngs(...)')
        _check_stream(rngs, 'dropout')

    def build() -> Network:
        layers: dict[Path, Any] = {path: _layer(module, arrays['params'], path) for path, module in modules.items()}
        single = {path: nnx.Param(array) for path, array in arrays['params'].items() if path[:-1] not in modules}
        return Network(linen, image_shape, layers | single)

    network: Network = nnx.eval_shape(build)  # without computing parameters that are replaced
    for kind, values in ((nnx.Param, variables['params']), (nnx.BatchStat, variables.get('batch_stats', {}))):
        state = nnx.state(network, kind)
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, values))
        nnx.update(network, state)
    if random and rngs is not None:
        network.dropout_rng = nnx.data(rngs.dropout.fork())
    return network


def _check_image_shape(shape: Sequence[int]) -> None:
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f'image_shape is {shape!r}; expected (height, width, channels), three integers from 1')


def _different_shape(variables: Variables, wanted: Variables) -> str:
    """Returns the first array by name whose shape is another than wanted, in words; '' if there is none."""
    ours, theirs = (
        {'/'.join(map(str, path)): array.shape for path, array in flatten_dict({**tree}).items()}
        for tree in (variables, wanted)
    )
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            return f'{path} is {ours.get(path, "missing")}; expected {theirs.get(path, "nothing")}'
    return ''


def _check_stream(rngs: object, name: str) -> None:
    if not isinstance(rngs, nnx.Rngs) or not ('default' in rngs or name in rngs):
        raise ConfigError(f'rngs has no stream for {name}; expected rngs=nnx.Rngs(SEED), or nnx.Rngs({name}=SEED, ...)')


def _trace(linen: nn.Module, image_shape: Sequence[int]) -> tuple[Variables, dict[Path, nn.Module], bool]:
    """Returns the shapes of a linen network's variables, its layers by path, and whether it has dropout or stochastic depth."""
    modules: dict[Path, nn.Module] = {}
    random: list[Path] = []

    def record(
        method: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        module = context.module
        if context.method_name == '__call__' and type(module) in _KEYWORDS:
            modules[module.path] = module
        if isinstance(module, nn.Dropout) and module.rate:
            random.append(module.path)
        return method(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        shapes: Variables = jax.eval_shape(functools.partial(linen.init, train=False), jax.random.key(0), images)
    return shapes, modules, bool(random)


def _layer(module: nn.Module, params: Mapping[Path, Any], path: Path) -> nnx.Module:
    """Returns NNX's layer for one of linen's."""
    keywords = {name: getattr(module, name) for name in _KEYWORDS[type(module)]}
    rngs = nnx.Rngs(0)
    if isinstance(module, nn.BatchNorm):
        (size,) = {array.shape[0] for at, array in params.items() if at[:-1] == path}
        kind = BatchNorm if isinstance(module, batch_norm.BatchNorm) else nnx.BatchNorm
        return kind(size, rngs=rngs, **keywords)
    # NNX's own signature; linen's default is NNX's too.
    if keywords.pop('promote_dtype') is bias_in_float32:
        keywords['promote_dtype'] = _bias_in_float32
    *_, inputs, outputs = params[*path, 'kernel'].shape
    if isinstance(module, nn.Dense):
        return nnx.Linear(inputs, outputs, rngs=rngs, **keywords)
    if keywords['conv_general_dilated'] is None:
        del keywords['conv_general_dilated']
    return nnx.Conv(inputs * module.feature_group_count, outputs, rngs=rngs, **keywords)


def _bias_in_float32(arrays: Sequence[jax.Array | None], *, dtype: DTypeLike) -> list[jax.Array | None]:
    return bias_in_float32(*arrays, dtype=dtype)


def to_linen(network: Network) -> tuple[nn.Module, Variables]:
    """Returns the linen network, with the number of classes of the current head, and its variables, as `Classifier` takes them.

    Raises:
      ConfigError: a layer was replaced by one that the linen network does not have.
    """
    state = {'params': nnx.Param, 'batch_stats': nnx.BatchStat}
    variables: Variables = {name: nnx.to_pure_dict(nnx.state(network, kind)) for name, kind in state.items()}
    images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    num_classes = nnx.eval_shape(lambda network, images: network(images), network, images).shape[-1]
    linen = network.linen.clone(num_classes=num_classes)
    wanted, modules, _ = _trace(linen, network.image_shape)
    if different := _different_shape(variables, {'batch_stats': {}, **wanted}):
        raise ConfigError(f'{different}: a layer was replaced by one that the linen network does not have')
    params = flatten_dict(variables['params'])
    for place, module in modules.items():
        layer = functools.reduce(getattr, place, network)
        expected = nnx.eval_shape(functools.partial(_layer, module, params, place))
        if different := _difference(layer, expected):
            raise ConfigError(
                f'{"/".join(place)} {different}: a layer was replaced by one that the linen network does not have'
            )
    return linen, variables


# The settings that change what a layer computes.
_DECISIVE = {
    nnx.Conv: ('kernel_size', 'strides', 'padding', 'input_dilation', 'kernel_dilation', 'feature_group_count'),
    nnx.Linear: (),
    nnx.BatchNorm: ('epsilon', 'momentum', 'axis_name'),
}


def _difference(layer: nnx.Module, expected: nnx.Module) -> str:
    """Returns the first setting in which a layer differs from the expected one, in words; '' if it differs in none."""
    kind = next(kind for kind in _DECISIVE if isinstance(expected, kind))
    if type(layer) not in (kind, BatchNorm, type(expected)) or not isinstance(layer, kind):
        return f'is a {type(layer).__name__}, expected a {kind.__name__}'
    for name in _DECISIVE[kind]:
        ours, theirs = (_plain(name, each) for each in (layer, expected))
        if ours != theirs:
            return f'has {name}={ours}, expected {theirs}'
    return ''


def _plain(name: str, layer: Any) -> object:
    """Returns an attribute of a layer in a form in which equal settings are equal."""
    value = getattr(layer, name)
    if name in ('strides', 'input_dilation', 'kernel_dilation'):
        return _pair(value)
    if name != 'padding':
        return value
    if value == 'SAME' and _pair(layer.strides) == (1, 1):
        excess = [(size - 1) * step for size, step in zip(layer.kernel_size, _pair(layer.kernel_dilation), strict=True)]
        return tuple((size // 2, size - size // 2) for size in excess)
    return value if isinstance(value, str) else tuple(map(_pair, _pair(value)))


def _pair(value: Any) -> tuple[Any, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
