"""Compares two configs, and checks whether a run with one may continue with the other."""

from collections.abc import Mapping, Sequence

from resnet_jax.config import Changes, TrainConfig, fields
from resnet_jax.errors import OtherConfigError


def changed_fields(old: TrainConfig, new: TrainConfig, *kinds: Changes) -> dict[str, tuple[object, object]]:
    """Returns {field: (old, new)} for the fields that differ and whose `changes` is one of `kinds`."""
    pairs = {
        field.name: (getattr(old, field.name), getattr(new, field.name))
        for field in fields()
        if field.metadata['changes'] in kinds
    }
    return {name: (before, after) for name, (before, after) in pairs.items() if before != after}


def describe_changes(changes: Mapping[str, Sequence[object]]) -> str:
    """Returns 'field: old -> new; ...'."""
    return '; '.join(f'{name}: {old!r} -> {new!r}' for name, (old, new) in changes.items())


def check_continues(
    old: TrainConfig, new: TrainConfig, where: str, *, extend: bool = False, allow_changes: bool = False
) -> None:
    """Checks that a run with the config `old` may continue with `new`.

    Args:
      where: the run folder or checkpoint, for the message.
      extend: `num_epochs` may grow.
      allow_changes: fields that change 'on_request' may differ.

    Raises:
      OtherConfigError: the run may not continue; names the fields that differ.
    """
    never, asked = changed_fields(old, new, 'never'), changed_fields(old, new, 'on_request')
    longer = old.num_epochs < new.num_epochs
    if longer and extend:
        never.pop('num_epochs')
    if allow_changes:
        asked = {}
    if not never and not asked:
        return
    arguments = []
    if never.keys() <= {'num_epochs'} and longer | (not never):
        arguments = [*(['extend'] if never else []), *(['allow_changes'] if asked else [])]
    raise OtherConfigError(f'{where} holds a run of another config ({describe_changes({**never, **asked})})', arguments)
