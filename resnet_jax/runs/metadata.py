"""The metadata of a checkpoint describe its run; every value is checked when it is read."""

import dataclasses
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.config import LARGEST_SIDE, TrainConfig
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runs.checksums import LARGEST_TEXT
from resnet_jax.runs.documents import are_numbers
from resnet_jax.runs.progress import Progress
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.typing import JsonDict

FORMAT = 2

_MOST_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata of a checkpoint.

    Attributes:
      config: config of the run.
      dataset: 'name', 'fingerprint', 'image_shape', 'class_names', 'mean' and 'std' of the training data.
      progress: progress of the run.
      environment: versions and hardware.
    """

    config: TrainConfig
    dataset: JsonDict
    progress: Progress
    environment: JsonDict


def read_metadata(path: Path) -> Metadata:
    """Returns the metadata of a checkpoint that has passed `verify`.

    Checks the type and range of every value, because later a step becomes a path and a shape becomes an array.

    Raises:
      InputFileError: the metadata have another format, or were not written by `save`.
      MissingModulesError: the config needs modules that are not imported.
    """

    def wrong(problem: object) -> InputFileError:
        return InputFileError(f'checkpoint {path}: metadata.json {problem}; it is not of this program, or was edited')

    file = path / 'metadata.json'
    if not file.is_file() or file.stat().st_size > LARGEST_TEXT:
        raise wrong('is missing or has more bytes than any')
    try:
        values = parse_json(read_text(file), lenient=True)  # non-finite numbers fail their own checks below
    except ValueError:
        raise wrong('is not JSON') from None
    if not isinstance(values, dict):
        raise wrong('is not an object')
    number = values.get('format')
    if type(number) is not int or number < 1:
        raise wrong('has no format; expected a number from 1')
    if number != FORMAT:
        advice = 'upgrade resnet_jax' if number > FORMAT else 'train again'
        raise InputFileError(f'checkpoint {path} has format {number}; this version reads {FORMAT}: {advice}')
    for name in ('config', 'dataset', 'progress', 'environment'):
        if not isinstance(values.get(name), dict):
            raise wrong(f'has {str(values.get(name))[:80]!r} as {name}' if name in values else f'has no {name}')
    imports = values['environment'].get('imports', [])
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise wrong(f'has {str(imports)[:80]!r} as imports')
    try:
        progress = Progress.from_json(values['progress'])
        config = TrainConfig.from_mapping(values['config'])
    except ConfigError as error:
        plugins.check_imported(imports, str(path), error)
        raise InputFileError(f'checkpoint {path}: metadata.json has a config that this version cannot use: {error}') from None
    except ValueError as error:
        raise wrong(error) from None
    if str(progress.step) != path.name:
        raise wrong(f'is of step {progress.step}')
    if not _describes_dataset(values['dataset']):
        raise InputFileError(
            f'checkpoint {path}: metadata.json does not describe its data set; expected image_shape (3 sizes up to '
            f'{LARGEST_SIDE}), class_names (texts, up to {_MOST_CLASSES}), mean and std (a number per channel, std above 0)'
        )
    return Metadata(config, values['dataset'], progress, values['environment'])


def modules_of_run(workdir: str | Path) -> list[str]:
    """Returns the modules that were imported when a run started, from its environment.json; [] if it lists none."""
    try:
        environment = parse_json(read_text(Path(workdir, 'environment.json')))
    except (OSError, ValueError):
        return []
    names = environment.get('imports') if isinstance(environment, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _describes_dataset(values: JsonDict) -> bool:
    shape, names = values.get('image_shape'), values.get('class_names')
    return (
        isinstance(values.get('name'), str)
        and isinstance(values.get('fingerprint'), str)
        and isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and 1 <= n <= LARGEST_SIDE for n in shape)
        and isinstance(names, list)
        and 1 <= len(names) <= _MOST_CLASSES
        and all(isinstance(name, str) for name in names)
        and are_numbers(values.get('mean'))
        and are_numbers(values.get('std'), above=0)
        and len(values['mean']) == len(values['std']) == shape[2]
    )
