"""PyTorch's side of the benchmark: equal network, optimizer, precision and batch, in the variants that are fast in PyTorch.

The comparison favours PyTorch: its batch is normalised and on the device, while our step also gathers, augments and normalises.
"""

import contextlib
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from resnet_jax.benchmark.torch_networks import create_torch_model
from resnet_jax.config import TrainConfig, choices
from resnet_jax.data import LoadOptions, find_dataset
from resnet_jax.errors import ConfigError, is_out_of_memory, one_line
from resnet_jax.typing import Json, JsonDict


class TorchSteps:
    """A config's network and optimizer in PyTorch, with one copy for each requested variant.

    A variant is a memory layout, a precision, and 'eager' or 'compiled' (`torch.compile`). On a CPU both are offered, because
    the faster one depends on the network; on a GPU only 'compiled', which is always faster.
    """

    def __init__(self, config: Json, device: str):
        zero = ('ema_decay', 'lookahead_sync_period', 'bias_learning_rate', 'head_learning_rate')
        plain_fields = {'gradient_accumulation_steps': 1, **dict.fromkeys(zero, 0), 'tta': 'none', 'proxy_model': ''}
        plain_fields |= {'freeze': '', 'layer_decay': 1.0}
        for field, plain in plain_fields.items():
            if config[field] != plain:
                raise ConfigError(f'the PyTorch peer has no {field}; expected {field}={plain}')
        if config['optimizer'] not in _OPTIMIZERS:
            raise ConfigError(
                f'the PyTorch peer has no optimizer {config["optimizer"]!r}; expected one of {", ".join(_OPTIMIZERS)}'
            )
        if device == 'cuda' and not torch.cuda.is_available():
            raise ConfigError('jax uses a GPU and this torch cannot; install a torch with CUDA to compare with')
        self._config, self._device = config, device
        self._dataset = find_dataset(config['dataset'], LoadOptions.of(TrainConfig.from_mapping(config))).dataset
        if self._dataset.image_shape[-1] != 3:
            raise ConfigError('the PyTorch networks take images of 3 channels; expected dataset=synthetic_cifar10')
        create_torch_model(config['model'], self._dataset.num_classes, config['model_kwargs'])  # reports a wrong model now
        self._steps: dict[tuple[str, str], Callable[[], object]] = {}
        layouts = ['channels_last'] if device == 'cuda' else ['contiguous', 'channels_last']
        precisions = ['float32'] if config['dtype'] == 'float32' else ['autocast', 'bfloat16']
        modes = ['compiled'] if device == 'cuda' else ['eager', 'compiled']
        self.variants = tuple(f'{a} {b} {c}' for a in layouts for b in precisions for c in modes)
        if device == 'cuda':
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision('high')  # TF32, which XLA uses as well
            torch.backends.cudnn.allow_tf32 = True

    def describe(self) -> JsonDict:
        """Returns version, device, number of threads and variants."""
        name = torch.cuda.get_device_name() if self._device == 'cuda' else 'cpu'
        return {
            'torch': torch.__version__,
            'device': name,
            'threads': torch.get_num_threads(),
            'variants': list(self.variants),
        }

    def train(self, steps: int, variant: str) -> float:
        """Runs training steps and returns the seconds until they are done."""
        return self._run('train', steps, variant)

    def eval(self, steps: int, variant: str) -> float:
        """Evaluates batches and returns the seconds until they are done."""
        return self._run('eval', steps, variant)

    def _run(self, phase: str, steps: int, variant: str) -> float:
        if (phase, variant) not in self._steps:
            step = self._make(phase, *variant.split())
            try:
                step()
            except Exception as error:  # many kinds: no C++ compiler, one that is too old, an unsupported operation
                if 'compiled' not in variant or is_out_of_memory(error):
                    raise
                raise ConfigError(f'torch.compile failed: {one_line(error)[:200]}') from None
            self._steps[phase, variant] = step
        step = self._steps[phase, variant]
        self._synchronize()
        before = time.monotonic()
        for _ in range(steps):
            step()
        self._synchronize()
        return time.monotonic() - before

    def forget(self, phase: str, keep: str) -> None:
        """Frees the copies of all variants but `keep`."""
        for key in [key for key in self._steps if key[0] == phase and key[1] != keep]:
            del self._steps[key]

    def _synchronize(self) -> None:
        if self._device == 'cuda':
            torch.cuda.synchronize()

    def _make(self, phase: str, layout: str, precision: str, mode: str) -> Callable[[], object]:
        """Returns a function that runs one step."""
        config, device = self._config, self._device
        memory_format = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
        model = create_torch_model(config['model'], self._dataset.num_classes, config['model_kwargs'])
        model = model.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
        height, width, channels = self._dataset.image_shape
        size = config['batch_size' if phase == 'train' else 'eval_batch_size']
        images = torch.randn(size, channels, height, width, device=device).to(memory_format=memory_format)
        labels = torch.arange(size, device=device) % self._dataset.num_classes
        if precision == 'bfloat16':
            images, model = images.bfloat16(), model.bfloat16()
            for layer in model.modules():  # BatchNorm stays float32, like ours
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.float()

        def context() -> contextlib.AbstractContextManager[object]:
            return torch.autocast(device, torch.bfloat16) if precision == 'autocast' else contextlib.nullcontext()

        def loss_fn(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with context():
                logits = model(images)
            return F.cross_entropy(logits.float(), labels, label_smoothing=config['label_smoothing']), logits

        if mode == 'compiled':
            loss_fn = torch.compile(loss_fn, mode='max-autotune' if device == 'cuda' else 'default')
        if phase == 'eval':
            model.eval()

            def eval_step() -> tuple[torch.Tensor, torch.Tensor]:
                with torch.inference_mode():
                    loss, logits = loss_fn(images, labels)
                    return loss.double(), (logits.argmax(1) == labels).sum()

            return eval_step
        optimizer = _create_optimizer(model, config)

        def train_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_fn(images, labels)[0].backward()
            if config['clip_norm']:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config['clip_norm'])
            optimizer.step()

        return train_step

    def matrix_products(self, size: int, seconds: float) -> dict[str, float]:
        """Returns the best rate of a square matrix product, in multiply-adds per second, by dtype."""
        return {name: self._matrix_product(size, seconds, name) for name in choices('dtype')}

    def _matrix_product(self, size: int, seconds: float, dtype: str) -> float:
        a = torch.full((size, size), 1 / size, dtype=getattr(torch, dtype), device=self._device)
        out = a @ a
        best, count, end = 0.0, 1, time.monotonic() + seconds
        while time.monotonic() < end:
            self._synchronize()
            before = time.monotonic()
            for _ in range(count):
                torch.matmul(a, a, out=out)
            self._synchronize()
            elapsed = time.monotonic() - before
            best = max(best, count * size**3 / elapsed)
            if elapsed < seconds / 5:
                count *= 2
        return best

    def peak_memory(self) -> dict[str, int]:
        """Returns the peak memory so far, in bytes: of this process and, on a GPU, of the device."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {'host': host, **({'device': torch.cuda.max_memory_reserved()} if self._device == 'cuda' else {})}


_OPTIMIZERS = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}


def _create_optimizer(model: torch.nn.Module, config: Json) -> torch.optim.Optimizer:
    """Returns the config's optimizer, with equal weight decay and, because the data are random, a small learning rate."""
    decayed = [p for p in model.parameters() if p.ndim > 1 or config['decay_norm_and_bias']]
    others = [p for p in model.parameters() if not (p.ndim > 1 or config['decay_norm_and_bias'])]
    groups = [{'params': decayed, 'weight_decay': config['weight_decay']}, {'params': others, 'weight_decay': 0.0}]
    kwargs: dict[str, object] = {'lr': 1e-3, 'fused': True}
    if config['optimizer'] == 'sgd':
        kwargs.update(momentum=config['momentum'], nesterov=config['nesterov'] and config['momentum'] > 0)
    make: Callable[..., torch.optim.Optimizer] = _OPTIMIZERS[config['optimizer']]
    return make([group for group in groups if group['params']], **kwargs)


class Layers:
    """Single convolutions; `form` is the memory layout, 'contiguous' or 'channels_last'."""

    def __init__(self) -> None:
        self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
        torch.backends.cudnn.benchmark = True

    def run(
        self, *, form: str, part: str, steps: int, height: int, inputs: int, outputs: int, kernel: int, **given: Any
    ) -> float:
        """Returns the seconds of `steps` executions."""
        layout = torch.channels_last if form == 'channels_last' else torch.contiguous_format
        kwargs = {'dtype': getattr(torch, given['dtype']), 'device': self._device}
        torch.manual_seed(0)
        x = torch.randn(given['batch_size'], inputs, height, height, **kwargs).to(memory_format=layout)
        weights = torch.randn(outputs, inputs, kernel, kernel, **kwargs).to(memory_format=layout)
        strides, padding = [given['stride']] * 2, [given['padding']] * 2
        g = torch.randn_like(F.conv2d(x, weights, stride=strides, padding=padding))
        mask = [part == 'input_gradient', part == 'kernel_gradient', False]
        with torch.inference_mode():
            self._synchronize()
            before = time.monotonic()
            for _ in range(steps):
                if part == 'output':
                    F.conv2d(x, weights, stride=strides, padding=padding)
                else:
                    torch.ops.aten.convolution_backward(g, x, weights, None, strides, padding, [1, 1], False, [0, 0], 1, mask)
            self._synchronize()
            return time.monotonic() - before

    def _synchronize(self) -> None:
        if self._device == 'cuda':
            torch.cuda.synchronize()
