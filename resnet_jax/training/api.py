"""What a caller of `train_and_evaluate` gives and gets: callbacks and the result."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from resnet_jax.classifier import Classifier
from resnet_jax.typing import Json, JsonDict, Row


class Callback:
    """Is told how a run goes on; override what you need. An exception ends the run and reaches the caller."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """After each step, in order, before its row is written: 'loss', 'accuracy', 'grad_norm', 'learning_rate', ...

        Several steps run in one dispatch, so the devices may be ahead of the step that this is about.
        """

    def on_evaluation(self, step: int, split: str, metrics: Json) -> None:
        """After each evaluation of 'validation' or 'test': 'loss', 'accuracy', 'count', ..."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After each checkpoint, in every process: the folder `path` is written."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `train_and_evaluate` returns.

    Attributes:
      result: what result.json holds: 'split', 'selected' ('last' or 'validation'), 'tta', 'accuracy', 'loss', 'count', 'step',
        'epoch', 'seconds', and 'ema_accuracy' and 'ema_loss' if the config has an `ema_decay`.
      history: the rows of metrics.jsonl.
      classifier: the trained network: the last one, or with a validation split the best.
    """

    result: JsonDict
    history: list[Row]
    classifier: Classifier
