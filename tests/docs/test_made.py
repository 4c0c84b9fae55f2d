"""What is made from the package and from measurements is what the documents have."""

import json
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from document_blocks import ROOT, ours

from resnet_jax.cli.main import COMMANDS
from resnet_jax.config import fields

UPDATE = runpy.run_path(str(ROOT / 'docs' / 'update.py'))
EVIDENCE = tomllib.loads((ROOT / 'docs' / 'evidence.toml').read_text())
TABLES = ('machines', 'versions')
MEASUREMENTS = [name for name in EVIDENCE if name not in TABLES]
PAGES = {path.name: path.read_text() for path in UPDATE['PAGES']}


def test_the_pages_are_as_made():
    # In a process of its own: tests that read shell blocks define flags, which the page of commands would list.
    command = [sys.executable, str(ROOT / 'docs' / 'update.py'), '--check']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f'run: python docs/update.py\n{done.stdout}{done.stderr}'


def test_a_number_that_was_changed_by_hand_is_noticed(tmp_path):
    page = tmp_path / 'page.md'
    text = 'n = <!--=quickstart.n-->10<!--/-->, 99 <!--=quickstart.run.accuracy-->99.50 ± 0.37<!--/-->\n'
    page.write_text(text.replace('99.50', '99.90'))
    assert UPDATE['page'](page) == text
    table = '<!-- made: table quickstart_time -->\n| config | seconds |\n| --- | --- |\n| `quickstart` | 11 |\n<!-- end -->\n'
    page.write_text(table.replace('11', '10'))
    assert UPDATE['page'](page) == table


def test_no_line_begins_with_a_number_that_is_made():
    """Markdown takes a line that begins with a comment for HTML, which ends the paragraph or list before it."""
    assert [text for text in PAGES.values() if re.search(r'^\s*<!--=', text, re.M)] == []


def test_every_field_and_every_command_is_in_the_reference():
    assert all(f'| `{field.name}` |' in PAGES['config.md'] for field in fields())
    assert all(f'\n## {command}\n' in PAGES['commands.md'] for command in COMMANDS)
    assert '| 6 | Another process trains in the same run folder. (`RunFolderInUseError`) |' in PAGES['exit_codes.md']


@pytest.mark.parametrize('name', MEASUREMENTS)
def test_a_measurement_says_what_it_is_of(name):
    entry = EVIDENCE[name]
    if 'results' in entry:
        results = json.loads((ROOT / 'docs' / entry['results']).read_text())
        runs = [run for of in results['entries'].values() for run in of['runs'].values()]
        assert runs and all(run['environment']['device'] and run['environment']['packages']['jax'] for run in runs)
        assert all(run['data_fingerprint'] and run['count'] for run in runs)
        return
    needed = {'title', 'metric', 'command', 'n', 'spread', 'data', 'machine', 'versions', 'columns', 'values'}
    assert needed <= {*entry} <= needed | {'note', 'more_commands'}
    assert entry['n'] >= 1 and entry['machine'] in EVIDENCE['machines'] and entry['versions'] in EVIDENCE['versions']
    for row in entry['values'].values():
        assert {*row} == {*entry['columns']}
        for cell in row.values():
            assert not isinstance(cell, dict) or {*cell} in ({'mean', 'sd'}, {'median', 'low', 'high'})
            assert not isinstance(cell, dict) or 'low' not in cell or cell['low'] <= cell['median'] <= cell['high']


def test_every_measurement_is_used_and_every_machine_is_of_one():
    used = ' '.join(PAGES.values())
    for name in MEASUREMENTS:
        made = f'study {name.removeprefix("study_")} -->' if 'results' in EVIDENCE[name] else f'## {EVIDENCE[name]["title"]}\n'
        assert made in used, name
    entries = [EVIDENCE[name] for name in MEASUREMENTS if 'values' in EVIDENCE[name]]
    assert {entry['machine'] for entry in entries} == {*EVIDENCE['machines']}
    assert {entry['versions'] for entry in entries} == {*EVIDENCE['versions']}


def test_recipes_expect_what_was_measured():
    """The docstrings of configs/ have numbers too."""
    collected = set()
    for entry in EVIDENCE.values():
        commands = [entry.get('command', ''), *entry.get('more_commands', ())]
        for row in entry.get('values', {}).values():
            name = str(row.get('config', '')).strip('`')
            if name and 'accuracy' in row:
                accuracy = row['accuracy']
                mean, sd = (accuracy['mean'], accuracy['sd']) if isinstance(accuracy, dict) else (accuracy, None)
                text = (ROOT / 'configs' / f'{name}.py').read_text()
                assert re.search(rf'Expected: {mean:.2f} %', text), name
                assert sd is None or f'sd {sd:.2f} %, n = {entry["n"]}' in text
                assert any(f'{name}.py' in command and ours(command.split())[0] == 'train' for command in commands)
                collected.add(name)
    assert collected == {'quickstart', 'd2l_resnet18', 'alexnet', 'speedrun_cpu', 'images'}
