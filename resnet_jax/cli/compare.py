"""Reports on run folders side by side, in one HTML file: {name} RUN RUN... [--out=compare.html]"""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError, InputFileError, ResourceError, one_line

FLAGS = command.Flags()
FLAGS.define('path', 'out', 'compare.html', 'The file to write.')
FLAGS.define('string', 'title', 'Runs compared', 'Its title.')


def main(arguments: Sequence[str]) -> None:
    if not arguments:
        raise ConfigError('expected run folders, as the train command makes them: runs/a runs/b')
    from resnet_jax.report.page import write_report
    from resnet_jax.runs.reader import ODD, read_runs

    runs, out = read_runs(arguments), FLAGS.value('out')
    try:
        path = write_report(runs, Path(out), FLAGS.value('title'))
    except OSError as error:
        raise ResourceError(f'{out} cannot be written: {error.strerror or error}; choose another --out') from None
    except ODD as error:  # files that no run has written
        raise InputFileError(
            f'a file of {", ".join(arguments)} is not what a run writes ({type(error).__name__}: {one_line(error)[:200]}); '
            'leave that run out, or delete the file'
        ) from None
    print(path)
