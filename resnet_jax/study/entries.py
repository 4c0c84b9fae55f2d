"""The entries and runs of a study, and `grid`, `zipped`, `cross` and `sweep` to define sweeps."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from resnet_jax import config_file
from resnet_jax.config_checks import check_num_seeds
from resnet_jax.errors import ConfigError
from resnet_jax.typing import Json, JsonDict


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One training run of a study: its entry, seed, complete config and folder."""

    entry: str
    seed: int
    config: JsonDict
    folder: Path


def grid(**values: Sequence[object]) -> list[JsonDict]:
    """Returns every combination of the values: grid(a=[1, 2], b=[3, 4]) has four."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def zipped(**values: Sequence[object]) -> list[JsonDict]:
    """Returns the first values together, then the second values, and so on: zipped(a=[1, 2], b=[3, 4]) has two."""
    return [dict(zip(values, chosen, strict=True)) for chosen in zip(*values.values(), strict=True)]


def cross(*points: Sequence[Json]) -> list[JsonDict]:
    """Returns every combination of one point of each list: cross(zipped(a=[1, 2], b=[3, 4]), grid(c=[5, 6])) has four."""
    return [{field: value for part in parts for field, value in part.items()} for parts in itertools.product(*points)]


def sweep(config: str, points: Sequence[Json]) -> dict[str, JsonDict]:
    """Returns a study's entries, one per point; the name of an entry is its point: 'learning_rate=0.1,momentum=0.9'.

    Args:
      config: name of a file in configs/.
      points: {field: value}, from `grid`, `zipped` or `cross`.

    Raises:
      ConfigError: two points have the same name.
    """
    entries = {}
    for point in points:
        text = ','.join(f'{field.removeprefix("model_kwargs.")}={value}' for field, value in point.items())
        name = re.sub(r'[^\w.+,=-]', '', text)
        if name in entries:
            raise ConfigError(f'two points of a sweep would have the folder {name!r}: write them as entries with names')
        entries[name] = {'config': config, 'overrides': dict(point)}
    return entries


def load_study(path: str | Path) -> JsonDict:
    """Returns the result of a file's `get_study()`.

    Raises:
      ConfigError: the file cannot be run, the result lacks entries or sizes, or these or its imports do not have the form
        that `expand` describes.
    """

    def wrong(problem: str) -> ConfigError:
        return ConfigError(f'{path}: {problem}; see docs/studies.md and configs/study/ for the form of a study')

    study: JsonDict = config_file.load(Path(path), 'get_study')
    for name in ('entries', 'sizes'):
        part = study.get(name) if isinstance(study, dict) else None
        if not isinstance(part, dict) or not part or not all(isinstance(value, dict) for value in part.values()):
            raise wrong(f'expected a dict with {name!r}, which is a dict of dicts and not empty')
    imports = study.get('imports', [])
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise wrong(f"'imports' is {imports!r}; expected a list of names of modules")
    for name, entry in study['entries'].items():
        if not isinstance(entry.get('config'), str):
            raise wrong(f"entry {name!r} has no 'config'; expected the name of a file in configs/")
    sizes = [study['sizes'], *(entry.get('sizes', {}) for entry in study['entries'].values())]
    if empty := [name for group in sizes for name, size in group.items() if not size.get('seeds', [0])]:
        raise wrong(f'size {empty[0]!r} has no seeds')
    return study


def expand(study: Json, size: str, folder: Path, seeds: int = 0) -> list[StudyRun]:
    """Returns a study's runs in execution order: every entry with the first seed, then every entry with the next seed.

    Args:
      study: 'entries': {name: {'config': name of a file in configs/, 'overrides': {field: value}}}, 'sizes': {size:
        {'seeds': [...], 'overrides': {...}}}. Fields with a dot refer to items of model_kwargs. A size's overrides take
        precedence over an entry's; an entry may also have 'sizes' in this form, which take precedence over both. 'imports'
        (optional): names of modules that the command and the runs import first: see `plugins.import_modules`.
      seeds: number of seeds, from 0 on, that replace the size's; entries that have seeds keep theirs.

    Raises:
      ConfigError: the size, a config or a field does not exist, or a name is not valid as a folder name.
    """
    sizes = study['sizes']
    if size not in sizes:
        raise ConfigError(f'the study has no size {size!r}; expected one of {", ".join(sizes)}')
    runs = []
    own = {name: entry.get('sizes', {}).get(size, {}) for name, entry in study['entries'].items()}
    if seeds:
        check_num_seeds(seeds)
    common = list(range(seeds)) or sizes[size]['seeds']
    chosen = {name: own[name].get('seeds', common) for name in own}
    for seed in sorted(set(itertools.chain.from_iterable(chosen.values()))):
        for name, entry in study['entries'].items():
            if seed not in chosen[name]:
                continue
            if not re.fullmatch(r'[\w.+,=-]+', name) or name == 'plots':
                raise ConfigError(f'entry {name!r} cannot be a folder; expected letters, digits and any of ._+-,=')
            overrides = {
                **entry.get('overrides', {}),
                **sizes[size].get('overrides', {}),
                **own[name].get('overrides', {}),
                'seed': seed,
            }
            runs.append(StudyRun(name, seed, _config(entry['config'], overrides), folder / name / f'seed{seed}'))
    return runs


def _config(name: str, overrides: Json) -> JsonDict:
    config = config_file.load_config(name)
    for field, value in overrides.items():
        first, dot, rest = field.partition('.')
        if first not in config:
            raise ConfigError(f'{name} has no field {first!r}; expected one of {", ".join(config)}')
        if dot:
            with config[first].unlocked():
                config[first][rest] = value
        else:
            config[first] = ConfigDict(value) if isinstance(value, Mapping) else value
    result: JsonDict = config.to_dict()
    return result
