"""Reports on run folders side by side, in one HTML file: {name} RUN RUN... [--out=compare.html]"""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError, ResourceError

FLAGS = command.Flags()
FLAGS.define('path', 'out', 'compare.html', 'The file to write.')
FLAGS.define('string', 'title', 'Runs compared', 'Its title.')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax compare` with the arguments that are not flags.

    Raises:
      ConfigError: there are no run folders.
      ResourceError: the report cannot be written.
    """
    if not arguments:
        raise ConfigError('expected run folders, as the train command makes them: runs/a runs/b')
    from resnet_jax.report.page import write_report
    from resnet_jax.runs.reader import read_runs, reported

    runs, out = read_runs(arguments), FLAGS.value('out')
    try:
        with reported(arguments):
            path = write_report(runs, Path(out), FLAGS.value('title'))
    except OSError as error:
        raise ResourceError(f'{out} cannot be written: {error.strerror or error}; choose another --out') from None
    print(path)
