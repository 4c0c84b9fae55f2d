"""Writes the parts of README.md and docs/ that are made from the package or from measurements: python docs/update.py [--check]

A page has what is made between marks:

  <!-- made: table NAME [COLUMN,...] -->  ... <!-- end -->   the numbers of a measurement in evidence.toml
  <!-- made: study NAME -->               ... <!-- end -->   the tables of study/NAME/results.json
  <!-- made: measurements -->             ... <!-- end -->   all of evidence.toml
  <!-- made: fields -->                   ... <!-- end -->   the fields of a config
  <!-- made: commands -->                 ... <!-- end -->   the commands and their flags
  <!-- made: exit_codes -->               ... <!-- end -->   the exit codes
  <!--=NAME.ROW.COLUMN-->...<!--/-->                         one number of evidence.toml

--check changes nothing, and fails if a page would change. --copy=FOLDER, as bin/study.py leaves one (runs/study/paper-cpu),
first copies its results and plots to docs/study/.
"""

import importlib
import inspect
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from resnet_jax import errors
from resnet_jax.cli.main import COMMANDS
from resnet_jax.config import fields
from resnet_jax.report import markdown

DOCS = Path(__file__).resolve().parent
PAGES = (DOCS.parent / 'README.md', *sorted(DOCS.glob('*.md')))
_BLOCK = re.compile(r'(<!-- made: (\w+) ?(.*?) -->\n).*?(<!-- end -->)', re.DOTALL)
_NUMBER = re.compile(r'(<!--=(\w+)\.([\w.]+)-->).*?(<!--/-->)', re.DOTALL)
_CHANGES = {'never': 'no', 'on_request': 'with `--allow_changes`', 'freely': 'yes'}


def page(path):
    """Returns the text of a page, with what is between its marks made anew."""
    text = _BLOCK.sub(lambda match: match[1] + globals()[f'_{match[2]}'](*match[3].split()) + match[4], path.read_text())
    return _NUMBER.sub(lambda match: match[1] + _number(match[2], match[3].split('.')) + match[4], text)


def evidence():
    """Returns evidence.toml; floats are text, with the digits that they have there."""
    return tomllib.loads((DOCS / 'evidence.toml').read_text(), parse_float=str)


def _number(name, keys):
    if name == 'count':
        return str(_count(*keys))
    entry = evidence()[name]
    value = _of_study(entry) if 'results' in entry else {**entry['values'], 'n': entry['n']}
    for key in keys:
        value = value[key]
    return _cell(value)


def _count(kind):
    """Returns how many models or published weights there are."""
    from resnet_jax import available_models, available_weights

    return len({'models': available_models, 'weights': available_weights}[kind]())


def _cell(value):
    """Returns a number as it is shown."""
    if isinstance(value, dict):
        keys = ('mean', 'sd') if 'sd' in value else ('median', 'low', 'high')
        shown = [_cell(value[key]) for key in keys]
        return ' ± '.join(shown) if 'sd' in value else f'{shown[0]} ({shown[1]}-{shown[2]})'
    return f'{value:,}' if isinstance(value, int) else value


def _of_study(entry):
    """Returns {entry: what the prose says of it} of a study's results: per cent, points and milliseconds."""
    results, entries = json.loads((DOCS / entry['results']).read_text()), {}
    for name, of in results['entries'].items():
        runs, compared = of['runs'].values(), results['comparisons'].get(name)
        entries[name] = {}
        if of['accuracy']:
            entries[name] |= {
                'accuracy': f'{100 * of["accuracy"]["mean"]:.1f}',
                'loss': f'{fmean(run["train_loss"] for run in runs):.1f}',
                'milliseconds': f'{1000 * fmean(run["iteration_seconds"] for run in runs):,.0f}',
                'seeds': ' and '.join(f'{100 * run["accuracy"]:.2f}' for run in runs),
            }
            if of['accuracy']['sd'] is not None:
                entries[name]['spread'] = f'{100 * of["accuracy"]["mean"]:.1f} ± {100 * of["accuracy"]["sd"]:.1f}'
        if compared:
            pairs = [f'{100 * pair["difference"]:+.2f}' for pair in compared['pairs'].values()]
            entries[name] |= {'difference': f'{100 * compared["mean"]:+.2f}', 'by_seed': ' and '.join(pairs)}
        if compared and compared['low'] is not None:
            entries[name]['interval'] = f'{100 * compared["low"]:+.0f} to {100 * compared["high"]:+.0f}'
            entries[name]['narrow_interval'] = f'{100 * compared["low"]:+.1f} to {100 * compared["high"]:+.1f}'
    return entries


def _rows(header, rows):
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |\n' for line in lines)


def _table(name, columns=''):
    measured = evidence()[name]
    keys = columns.split(',') if columns else [*measured['columns']]
    values = [[_cell(row[key]) for key in keys] for row in measured['values'].values()]
    return _rows([measured['columns'][key] for key in keys], values)


def _study(name):
    return markdown.tables(json.loads((DOCS / 'study' / name / 'results.json').read_text()))


def _measurements():
    everything = evidence()
    machines, versions = everything.pop('machines'), everything.pop('versions')
    parts = []
    for name, measured in everything.items():
        commands = '\n'.join([measured['command'], *measured.get('more_commands', ())])
        parts.append(f'## {measured["title"]}\n\n```\n{commands}\n```\n')
        if 'results' in measured:
            parts.append(
                f'[{measured["results"]}]({measured["results"]}) holds them; [Results of the study](study.md) shows them.\n'
            )
            continue
        facts = {
            'measured': measured['metric'],
            'n': f'{measured["n"]}; {measured["spread"]}',
            'data': measured['data'],
            'machine': machines[measured['machine']],
            'versions': versions[measured['versions']],
            **({'note': measured['note']} if 'note' in measured else {}),
        }
        parts += [''.join(f'- {key}: {value}\n' for key, value in facts.items()), _table(name)]
    return '\n' + '\n'.join(parts) + '\n'


def _fields():
    lines = []
    for field in fields():
        section, check = field.metadata['section'], field.metadata['check']
        if section or field.name == 'seed':
            lines += ['', f'## {section or "Randomness"}', '']
            lines += ['| field | default | meaning | expected | may change |', '|---|---|---|---|---|']
        default = {} if callable(field.default_factory) else field.default
        expected = ', '.join(f'`{choice}`' for choice in check.choices) or check.expected
        cells = [f'`{field.name}`', f'`{default!r}`', field.metadata['meaning'], expected, _CHANGES[field.metadata['changes']]]
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return '\n'.join(lines) + '\n\n'


def _commands():
    parts = []
    for verb in COMMANDS:
        command = importlib.import_module(f'resnet_jax.cli.{verb}')
        text = command.__doc__.strip().replace('{name}', f'resnet-jax {verb}')
        text = re.sub(r'(?<=[:,]) (?=resnet-jax )', '\n\n', text)
        text = re.sub(r'(?m)^(resnet-jax .*), (or .*:)$', r'\1\n\n\2', text)
        paragraphs = [f'```text\n{part}\n```' if part.startswith('resnet-jax ') else part for part in text.split('\n\n')]
        rows = []
        for flag in (command.FLAGS[name] for name in command.FLAGS):
            default = '' if flag.default in (None, [], False) else f' Default: `{flag.default}`.'
            meaning = re.sub(r'^<(.*?)>: ', r'`\1`: ', flag.help.split(';\n')[0]).replace('<', '\\<')
            rows.append([f'`--{flag.name}`', meaning + default])
        parts.append('\n\n'.join([f'## {verb}', *paragraphs, _rows(['flag', 'meaning'], rows)]))
    return '\n' + '\n'.join(parts) + '\n'


def _exit_codes():
    meanings = {0: ['done'], 1: ['a bug of this package'], 141: ['the reader of the output has left, as in `\\| head`']}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.UserError) and kind is not errors.UserError:
            meanings.setdefault(kind.exit_code, []).append(f'{inspect.getdoc(kind).splitlines()[0]} (`{kind.__name__}`)')
    meanings['129, 130, 143'] = ['stopped by SIGHUP, Ctrl-C or SIGTERM; the state is saved (`Interrupted`)']
    order = sorted(meanings, key=lambda code: int(str(code).split(',')[0]))
    return ''.join(
        ['| code | what it means |\n|---|---|\n', *(f'| {code} | {"<br>".join(meanings[code])} |\n' for code in order)]
    )


def copy(folder):
    """Copies the results and plots of a study to docs/study/<its name>."""
    if not (folder / 'results.json').is_file():
        sys.exit(f'error: no results.json in {folder}; expected a folder that bin/study.py has made')
    name = json.loads((folder / 'results.json').read_text())['name'].partition(',')[0]
    (DOCS / 'study' / name).mkdir(parents=True, exist_ok=True)
    for path in [folder / 'results.json', folder / 'results.csv', *sorted((folder / 'plots').iterdir())]:
        shutil.copy(path, DOCS / 'study' / name)


def main(arguments):
    for argument in arguments:
        if argument.startswith('--copy='):
            copy(Path(argument.removeprefix('--copy=')))
        elif argument != '--check':
            sys.exit(f'error: {argument!r} is not --check or --copy=FOLDER')
    changed = [path for path in PAGES if page(path) != path.read_text()]
    if '--check' in arguments and changed:
        sys.exit(f'error: {", ".join(path.name for path in changed)}: not as made; run python docs/update.py')
    for path in changed:
        path.write_text(page(path))
        print(path)


if __name__ == '__main__':
    main(sys.argv[1:])
