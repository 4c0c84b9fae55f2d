"""A trained run, loaded from its folder: the network, its variables and what it must know of the data."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.classifier import build_model
from resnet_jax.data.augment import normalize
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runs import checkpoint


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `load_run` returns.

    Attributes:
      model, variables: for `model.apply(variables, images, train=False)`.
      config: the run's config.
      step: the step of the checkpoint.
      dataset: 'name', 'fingerprint', 'image_shape', 'class_names', 'mean' and 'std' of what it was trained on.
    """

    model: nn.Module
    variables: Any
    config: dict[str, Any]
    step: int
    dataset: dict[str, Any]

    @property
    def tta(self) -> str:
        """What the run averaged the logits over in its evaluation; `predict` does not."""
        return self.config.get('tta', 'none')  # of a run made before there was a choice

    def probabilities(self, images: jax.Array) -> jax.Array:
        """`predict` of one batch as a traceable function: from uint8 images, normalisation included, to probabilities."""
        inputs = normalize(images, self.dataset['mean'], self.dataset['std'], jnp.dtype(self.config['dtype']))
        logits: Any = self.model.apply(self.variables, inputs, train=False)
        return jax.nn.softmax(logits)

    @functools.cached_property
    def _predict_batch(self) -> Callable:
        # The variables are an argument: closed over, they would be constants of the compiled program.
        return jax.jit(lambda variables, images: dataclasses.replace(self, variables=variables).probabilities(images))

    def predict(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
        """Returns float32 probabilities `[n, num_classes]` for uint8 images `[n, height, width, channels]`.

        Raises:
          ConfigError: the images do not have the shape that the run was trained on.
        """
        expected = tuple(self.dataset['image_shape'])
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ConfigError(f'images are {images.dtype}{list(images.shape)}; expected uint8 [n, {str(list(expected))[1:]}')

        batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        parts = [self._predict_batch(self.variables, batch) for batch in batches]
        return np.concatenate([np.zeros((0, len(self.dataset['class_names'])), np.float32), *map(np.asarray, parts)])


def load_run(workdir: str | Path, *, ema: bool = False) -> TrainedRun:
    """Loads the result of a run: its last checkpoint or, if it held out a validation split, the best one.

    Args:
      ema: take the averaged parameters.

    Raises:
      InputFileError: there is no run, it has no checkpoint yet, or its checkpoints are damaged.
      ConfigError: `ema`, and the run has no averaged parameters.
    """
    folder = Path(workdir) / 'checkpoints'
    if not folder.is_dir():
        raise InputFileError(f'no run in {workdir}: expected a folder with checkpoints/, as bin/train.py --workdir makes it')
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
        raise ConfigError(f'the run in {workdir} has no averaged parameters; drop --ema, or train with --config.ema_decay')
    model = build_model(config, len(dataset['class_names']))
    image = jax.ShapeDtypeStruct((1, *dataset['image_shape']), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    wanted = {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}
    variables = checkpoint.restore(path, {'ema': wanted} if ema else wanted)
    return TrainedRun(model, variables['ema'] if ema else variables, config.to_dict(), int(path.name), dataset)
