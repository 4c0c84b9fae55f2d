"""The config in a run folder, for `train --workdir=FOLDER` without --config."""

from pathlib import Path

from ml_collections import ConfigDict

from resnet_jax.config import default_config
from resnet_jax.errors import InputFileError
from resnet_jax.runtime.untrusted import parse_json, read_text


def get_config(workdir: str) -> ConfigDict:
    """Returns the config of the run in a folder, unchecked; `TrainConfig` checks it after the overrides.

    Raises:
      InputFileError: config.json is not JSON, or not a config.
    """
    path = Path(workdir, 'config.json')
    try:
        values = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise InputFileError(f'{path} is not valid JSON ({error}); restore it or choose another run folder') from None
    if not isinstance(values, dict):
        raise InputFileError(f'{path} is not a config; restore it or choose another run folder')
    config = default_config()
    with config.unlocked(), config.ignore_type():  # `TrainConfig` reports wrong types with their fields
        for name, value in values.items():
            value = tuple(value) if isinstance(value, list) else value  # an override must have the type of the old value
            config[name] = ConfigDict(value) if isinstance(value, dict) else value
    return config
