"""Callbacks and the result of `train_and_evaluate`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from resnet_jax.classifier import Classifier
from resnet_jax.typing import Json, JsonDict, Row


class Callback:
    """Hooks into a run; override the methods you need. An exception in a hook ends the run and propagates to the caller."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each step, in order, before the step's row is written.

        Several steps run in one dispatch, so the devices may be ahead of this step.

        Args:
          metrics: 'loss', 'accuracy', 'grad_norm', 'learning_rate', ...
        """

    def on_evaluation(self, step: int, split: str, metrics: Json) -> None:
        """Called after each evaluation of 'validation' or 'test'; `metrics` has 'loss', 'accuracy', 'count', ..."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Called in every process after a checkpoint has been written to the folder `path`."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of `train_and_evaluate`.

    Attributes:
      result: the contents of result.json: 'split', 'selected' ('last' or 'validation'), 'tta', 'accuracy', 'loss', 'count',
        'step', 'epoch', 'seconds', and 'ema_accuracy' and 'ema_loss' if the config has an `ema_decay`.
      history: the rows of metrics.jsonl.
      classifier: the trained network of the last epoch or, with a validation split, of the best one.
    """

    result: JsonDict
    history: list[Row]
    classifier: Classifier
