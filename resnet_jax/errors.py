"""Errors that a user can cause or must act on, each with the exit code of a command that it ends.

Exit codes of every command: 0 done; 1 a bug of ours; 2 usage or config; 3 bad input file; 4 training diverged;
5 resources (disk, memory, permissions); 6 run folder in use; 75 another process of the run was lost, restart all;
129/130/143 interrupted, state saved.
"""

import difflib
import reprlib
from collections.abc import Iterable, Sequence

_LONGEST_MESSAGE = 4000


class _Shortened(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 10
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        # Python does not print integers of more than 4,300 digits.
        return repr(x) if x.bit_length() < 1000 else f'<integer of {x.bit_length()} bits>'


def shortened(value: object) -> str:
    """Returns repr(value), shortened if it is long, nested deeply or contains itself."""
    return _Shortened().repr(value)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns "; did you mean '<nearest>'?", or '' if no choice is near."""
    if len(word) > 200:
        return ''
    nearest = difflib.get_close_matches(word.lower(), list(choices), n=1)
    return f'; did you mean {nearest[0]!r}?' if nearest else ''


def one_line(error: object) -> str:
    """Returns an error's message on one line, or the name of its class if it has none."""
    return ' '.join(str(error).split()) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether JAX or PyTorch says that a device's memory is full."""
    return any(text in str(error) for text in ('RESOURCE_EXHAUSTED', 'out of memory', "can't allocate memory"))


class UserError(Exception):
    """An error whose one-line message says what is wrong, what was expected and what to do.

    Args:
      message: if longer than 4,000 characters, its middle is left out.
      topic: 'weights' or 'broken_images'; the commands then name the command that lists them.
    """

    exit_code = 2

    def __init__(self, message: str, *, topic: str = ''):
        if len(message) > _LONGEST_MESSAGE:
            message = f'{message[: _LONGEST_MESSAGE // 2]} [...] {message[-_LONGEST_MESSAGE // 2 :]}'
        super().__init__(message)
        self.topic = topic


class ConfigError(UserError, ValueError):
    """A flag, config field or argument is unknown, of the wrong type or out of range."""

    exit_code = 2


class MissingModulesError(ConfigError):
    """A run needs user modules that are not imported; `modules` are their names."""

    def __init__(self, message: str, modules: Sequence[str]):
        super().__init__(message)
        self.modules = tuple(modules)


class OtherConfigError(ConfigError):
    """A run of another config may go on with these arguments of `train_and_evaluate`; without any, it may not."""

    def __init__(self, problem: str, arguments: Sequence[str]):
        self.problem, self.arguments = problem, tuple(arguments)
        super().__init__(self.message())

    def message(self, prefix: str = '') -> str:
        """Returns the message, with `prefix` before the names of the arguments."""
        names = ' and '.join(prefix + name for name in self.arguments)
        remedy = f'continue with {names}, or choose' if names else 'choose'
        return f'{self.problem}; {remedy} another run folder, or delete it'


class InputFileError(UserError):
    """A data set, checkpoint or image is missing, damaged or not what it claims to be."""

    exit_code = 3


class ExportError(UserError):
    """An exported network's outputs differ from the network's: a bug, ours or the converter's."""

    exit_code = 1


class DivergedError(UserError):
    """The loss is no longer finite."""

    exit_code = 4


class ResourceError(UserError):
    """Disk space, memory or permissions are insufficient."""

    exit_code = 5


class OutOfMemoryError(ResourceError):
    """The device's memory is insufficient, and a retry would not help."""


class RunFolderInUseError(UserError):
    """Another process trains in the same run folder."""

    exit_code = 6


class LostPeerError(UserError):
    """Another process of the run exited, hangs or cannot be reached; restarting all processes continues the run."""

    exit_code = 75


class Interrupted(KeyboardInterrupt):
    """A signal stopped a run, and its state is saved. The exit code is 128 + `number`, the signal's number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number
