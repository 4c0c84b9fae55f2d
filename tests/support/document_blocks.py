"""The code blocks of README.md and docs/, and the commands in them."""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md')))
_FENCE = re.compile(r'^```([^\n`]*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
# Words of a shell that may stand before a command, and lines that are no command.
_KEYWORDS = {'until', 'while', 'if', 'then', 'else', 'do', 'done', 'fi', 'esac'}


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code: its page, first line, language and text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self):
        """The file that the block is of, as its first line says (`# mine.py`), or None."""
        collected = re.match(r'# (\w+\.py)\n', self.text)
        return collected[1] if collected else None

    def __str__(self):
        return f'{self.page.name}:{self.line}'


def blocks(*languages):
    """Returns the blocks in one of these languages; '' is none."""
    collected = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            block = Block(page, text[: match.start()].count('\n') + 1, match[1].strip(), match[2])
            if block.language in languages:
                collected.append(block)
    return collected


def languages():
    """Returns all languages of blocks."""
    return {match[1].strip() for page in PAGES for match in _FENCE.finditer(page.read_text())}


def commands(text):
    """Returns the commands in lines of a shell, each a list of words, without comments, keywords and variables before it."""
    collected = []
    for line in text.replace('\\\n', ' ').splitlines():
        if line.lstrip().startswith('case '):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=';|&()')
        lexer.whitespace_split, lexer.commenters = True, '#'
        words = [[]]
        for word in lexer:
            if set(word) <= set(';|&()'):
                words.append([])
            else:
                words[-1].append(word)
        for command in words:
            while command and (command[0] in _KEYWORDS or re.fullmatch(r'\w+=.*', command[0])):
                command = command[1:]
            if command:
                collected.append(command)
    return collected


def ours(command):
    """Returns (command of this package, its arguments) for words such as `resnet-jax train ...`, or None."""
    if command[0] == 'srun':
        command = command[next(i for i, word in enumerate(command) if i and not word.startswith('-')) :]
    if command[0] == 'resnet-jax':
        return command[1], command[2:]
    if command[0].startswith('python') and len(command) > 1 and command[1].startswith('bin/'):
        return Path(command[1]).stem, command[2:]
    return None
