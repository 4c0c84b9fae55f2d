"""Writes docs/config.md, the fields of a config, from resnet_jax/config.py: python docs/update_config.py"""

from pathlib import Path

from resnet_jax.config import fields

PATH = Path(__file__).with_name('config.md')
CHANGES = {'never': 'no', 'on_request': 'with `--allow_changes`', 'freely': 'yes'}


def page() -> str:
    """Returns the page."""
    lines = [
        '# Fields of a config',
        '',
        'Set in a config file, or as `--config.FIELD=VALUE`. The last column says whether a field may differ when a run is',
        'continued; `num_epochs` may grow with `--extend`. Made by `python docs/update_config.py`; '
        '`resnet-jax train --help` prints',
        'the same.',
    ]
    for field in fields():
        section, check = field.metadata['section'], field.metadata['check']
        if section or field.name == 'seed':
            heading = ['', f'## {section}'] if section else []
            lines += [*heading, '', '| field | default | meaning | expected | may change |', '|---|---|---|---|---|']
        default = {} if callable(field.default_factory) else field.default
        expected = ', '.join(f'`{choice}`' for choice in check.choices) or check.expected
        cells = [f'`{field.name}`', f'`{default!r}`', field.metadata['meaning'], expected, CHANGES[field.metadata['changes']]]
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    PATH.write_text(page())
