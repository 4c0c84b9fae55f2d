"""The progress of a run; a checkpoint stores it with the arrays of the TrainState."""

import dataclasses
from collections.abc import Mapping

from resnet_jax.config_changes import describe_changes
from resnet_jax.runs.documents import LARGEST_STEP, is_integer, is_number, is_share
from resnet_jax.typing import JsonDict, Row


@dataclasses.dataclass(frozen=True)
class Best:
    """The step with the best accuracy on the validation split."""

    step: int
    accuracy: float


@dataclasses.dataclass(frozen=True)
class ConfigChange:
    """Config fields that were changed on request, {field: [old, new]}, and the step after which the new values apply."""

    step: int
    fields: dict[str, list[object]]

    def describe(self) -> str:
        """Returns 'field: old -> new; ...'."""
        return describe_changes(self.fields)


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
      step: number of finished steps.
      seconds: time spent on the run, including earlier starts.
      best: the best step on the validation split so far.
      evaluation: metrics of the latest evaluation during training; empty before the first evaluation.
      evaluation_due: whether the evaluation after this step was interrupted.
      pending: metrics of the steps since the last row of the log.
      rollbacks: number of times the run has diverged and returned to a checkpoint.
      changes: changes to its config, in order.
    """

    step: int = 0
    seconds: float = 0.0
    best: Best | None = None
    evaluation: Row = dataclasses.field(default_factory=dict)
    evaluation_due: bool = False
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)
    rollbacks: int = 0
    changes: list[ConfigChange] = dataclasses.field(default_factory=list)

    def to_json(self) -> JsonDict:
        """Returns the value stored in metadata.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> 'Progress':
        """Reads the value stored in metadata.json; checks everything, because the file is untrusted.

        Raises:
          ValueError: `to_json` cannot have written a value; names it.
        """
        if not isinstance(values, Mapping) or values.keys() != {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f'has {str(values)[:80]!r} as progress')

        def check(name: str, good: bool) -> None:
            if not good:
                raise ValueError(f'has {str(values[name])[:80]!r} as {name}')

        best, evaluation, pending, changes = (values[name] for name in ('best', 'evaluation', 'pending', 'changes'))
        check('step', is_integer(values['step'], LARGEST_STEP))
        check('seconds', is_number(values['seconds']) and 0 <= values['seconds'] < 1e12)
        check('best', best is None or (_is_best(best) and best['step'] <= values['step']))
        check('evaluation', isinstance(evaluation, dict) and all(map(_is_metric, evaluation.values())))
        check('evaluation', not evaluation or {'loss', 'accuracy', 'count'} <= evaluation.keys())
        check('evaluation', all(is_share(evaluation[name]) for name in evaluation.keys() & {'accuracy', 'ema_accuracy'}))
        check('evaluation', evaluation.get('count', 1) >= 1)
        check('evaluation_due', isinstance(values['evaluation_due'], bool))
        check('pending', isinstance(pending, list) and all(_is_metrics(row) for row in pending))
        check('pending', all({'loss', 'accuracy', 'grad_norm'} <= row.keys() for row in pending))
        check('rollbacks', is_integer(values['rollbacks'], 1000))
        return cls(**{**values, 'best': best and Best(**best), 'changes': read_changes(changes)})


def read_changes(values: object) -> list[ConfigChange]:
    """Reads config changes from JSON.

    Raises:
      ValueError: `Progress.to_json` cannot have written the value.
    """
    if not isinstance(values, list) or not all(map(_is_change, values)):
        raise ValueError(f'has {str(values)[:80]!r} as changes')
    return [ConfigChange(**change) for change in values]


def _is_metric(value: object) -> bool:
    return isinstance(value, str) or is_number(value)


def _is_metrics(row: object) -> bool:
    return isinstance(row, dict) and all(map(is_number, row.values()))


def _is_best(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {'step', 'accuracy'}:
        return False
    return is_integer(value['step'], LARGEST_STEP) and is_share(value['accuracy'])


def _is_change(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {'step', 'fields'}:
        return False
    return (
        is_integer(value['step'], LARGEST_STEP)
        and isinstance(value['fields'], dict)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value['fields'].values())
    )
