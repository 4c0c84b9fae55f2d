"""Reports on run folders side by side, in one HTML file: python bin/compare.py RUN RUN... [--out=compare.html]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError, InputFileError, ResourceError

_OUT = flags.DEFINE_string('out', 'compare.html', 'The file to write.')
_TITLE = flags.DEFINE_string('title', 'Runs compared', 'Its title.')


def main(arguments):
    if not arguments:
        raise ConfigError('expected run folders, as bin/train.py makes them: python bin/compare.py runs/a runs/b')
    from resnet_jax.report.page import write_report
    from resnet_jax.runs.reader import read_runs

    runs = read_runs(arguments)
    try:
        print(write_report(runs, Path(_OUT.value), _TITLE.value))
    except OSError as error:
        raise ResourceError(f'{_OUT.value} cannot be written: {error.strerror or error}; choose another --out') from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # of files that no run has written
        raise InputFileError(
            f'a file of {", ".join(arguments)} is not what bin/train.py writes ({type(error).__name__}: {error}); '
            'leave that run out, or delete the file'
        ) from None


if __name__ == '__main__':
    command_line.run(main)
