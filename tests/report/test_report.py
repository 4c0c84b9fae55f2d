import dataclasses
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from run_files import write_folder

from resnet_jax.errors import InputFileError
from resnet_jax.report.overview import agreement
from resnet_jax.report.page import render, write_report, write_run_report
from resnet_jax.report.results import collect
from resnet_jax.runs.reader import read_run

NASTY = '</script><script>window.hacked=1</script>"\'&<img src=x onerror=hack()>'
SECTIONS = [
    'summary',
    'agreement',
    'curves',
    'classes',
    'confusion',
    'map',
    'wrong',
    'calibration',
    'robustness',
    'data',
    'augmentation',
    'filters',
    'gradients',
    'configs',
    'environment',
]


@pytest.fixture
def nasty_page(tmp_path):
    runs = [read_run(write_folder(tmp_path / name, seed, NASTY)) for seed, name in enumerate(('first', 'second'))]
    return write_report(runs, tmp_path / 'report.html', NASTY)


class Outline(HTMLParser):
    """The ids of sections, and what could run or load something."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.scripts, self.outside = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.scripts += tag == 'script'
        if tag == 'section':
            self.ids.append(values['id'])
        inside = ('data:', '#')
        self.outside += [v for k, v in attributes if k.startswith('on') or (k in ('src', 'href') and not v.startswith(inside))]


def test_every_section_is_there_and_what_a_run_says_is_text(nasty_page):
    outline = Outline(nasty_page.read_text())
    assert outline.ids == SECTIONS
    assert outline.scripts == 2  # the data and the page's own
    assert not outline.outside


def leaves(value, path=()):
    """Every place in a JSON value, keys included: (path, whether it is the key that is meant)."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                yield (*path, key), True
            yield from leaves(part, (*path, key))
    else:
        yield path, False


def test_no_text_in_any_place_of_a_run_becomes_markup(tmp_path):
    folder, tried = write_folder(tmp_path / 'run'), 0
    for file in sorted([*folder.glob('*.json'), *folder.glob('*.jsonl')]):
        before = file.read_text()
        lines = file.suffix == '.jsonl'
        whole = [json.loads(line) for line in before.splitlines() if line.endswith('}')] if lines else json.loads(before)
        for path, key in leaves(whole):
            changed = json.loads(json.dumps(whole))
            place = changed
            for part in path[:-1]:
                place = place[part]
            if key:
                place[NASTY] = place.pop(path[-1])
            else:
                place[path[-1]] = NASTY
            file.write_text(''.join(json.dumps(row) + '\n' for row in changed) if lines else json.dumps(changed))
            try:
                runs = [read_run(folder)]
                page = render(runs, 'run', collect({'name': 'study'}, {'e': {0: runs[0]}}))
            except (InputFileError, TypeError, ValueError, KeyError, AttributeError):  # a text where a number belongs
                continue
            finally:
                file.write_text(before)
            outline = Outline(page)
            assert outline.scripts == 2 and not outline.outside, (file.name, path)
            tried += 1
    assert tried > 80


def test_classes_are_matched_by_name(tmp_path):
    runs = [read_run(write_folder(tmp_path / name, class_name=name)) for name in ('frog', 'lion')]
    page = render(runs, 'two data sets')
    rows = [f'<tr><td>{name}</td><td>{a}</td><td>{b}</td></tr>' for name, a, b in (
        ('cat', '50.0 %', '50.0 %'), ('dog', '-', '-'), ('frog', '70.0 %', '-'), ('lion', '-', '70.0 %'),
    )]  # fmt: skip
    assert ''.join(rows) in page


def test_of_many_classes_the_pairs_most_often_confused_are_named(tmp_path):
    matrix = np.eye(25, dtype=int) * 9
    matrix[3, 7], matrix[8, 2] = 4, 6
    run = read_run(write_folder(tmp_path / 'run'))
    names = [f'class {i}' for i in range(25)]
    rows = [('class 8', 'class 2', 6, 15), ('class 3', 'class 7', 4, 13)]
    text = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    entries = [[i, j, int(count)] for (i, j), count in np.ndenumerate(matrix) if count]
    names += [f'class {i}' for i in range(25, 1200)]
    older = np.pad(matrix, (0, 1175)).tolist()  # as every file had it once
    for classes, confusion in ((25, matrix.tolist()), (1200, entries), (1200, older)):
        evaluation = {**run.evaluation, 'class_names': names[:classes], 'confusion': confusion}
        assert text + '</table>' in render([dataclasses.replace(run, evaluation=evaluation)], 'run')


def test_what_is_left_out_of_the_differences_is_said(tmp_path):
    runs = [read_run(write_folder(tmp_path / str(seed), seed)) for seed in range(9)]
    runs[1] = dataclasses.replace(runs[1], fingerprint='other', result={**runs[1].result, 'tta': 'mirror'})
    page = render(runs, 'nine')
    assert 'The first 8 of 9 runs. 7 pairs are left out: of other test images' in page and '<td>0 - 2</td>' in page


def test_names_of_a_study_are_text(tmp_path):
    runs = [read_run(write_folder(tmp_path / name)) for name in 'ab']
    expected = {NASTY: {'expected': {'accuracy': 90.0, 'source': NASTY}}}
    study = {'name': NASTY, 'entries': expected, 'published': {NASTY: {'accuracy': [[2, 30.0]]}}}
    outline = Outline(render(runs, NASTY, collect(study, {NASTY: dict(enumerate(runs))})))
    assert outline.scripts == 2 and not outline.outside


def test_figures_of_the_run_are_in_the_page(tmp_path):
    page = render([read_run(write_folder(tmp_path / 'run'))], 'run')
    for text in ('60.00 %', '75,290', '12,000', '100', 'fog', '54.0%', 'ECE', 'jax 0.10.2', '3 MiB', '<td>500.0</td>'):
        assert text in page
    data = json.loads(page.split('id="chart-data">')[1].split('</script>')[0])
    accuracy = data['charts']['accuracy']['series']
    assert [series['part'] for series in accuracy] == ['train', 'test']
    assert accuracy[0]['points'][1] == [4, pytest.approx(400 / 9), 12.0]
    start, end = (data['charts'][f'gradients_{when}']['series'][0] for when in ('start', 'end'))
    assert start['points'] == [[1, 0.5, None, 'conv1'], [2, 2.0, None, 'fc']] and start['part'] == 'iteration 1'
    assert [point[1] for point in end['points']] == [0.125, 0.5]
    assert data['charts']['gradients_first']['series'][0]['points'] == [[1, 0.5], [4, 0.125]]


def test_the_verdict_on_a_pair_is_that_of_evaluate_and_says_what_the_correction_changes(tmp_path):
    """Eight against one of 100: exact McNemar p = 2 * (1 + 9) / 2**9 = 0.039, times 3 pairs 0.117 (Holm)."""
    empty = read_run(write_folder(tmp_path / 'run'))
    labels = np.zeros(100, int)

    def run(name, right):
        correct = np.isin(np.arange(100), right).astype(np.float32)
        answers = np.stack([correct, 1 - correct], 1)
        return dataclasses.replace(empty, name=name, log_probabilities=answers, labels=labels)

    runs = [run('a', range(50, 90)), run('b', [*range(51, 90), *range(8)]), run('c', range(50, 90))]
    section = agreement(runs).content
    pair = section[section.index('a - b') :].split('</tr>')[0]
    assert '0.039' in pair and '0.12' in pair and 'larger than chance; not when corrected for all 3 pairs' in pair
    pair = agreement(runs[:2]).content
    assert 'larger than chance' in pair and 'corrected for all' not in pair


def test_a_study_is_drawn_by_entry_beside_what_was_published(tmp_path):
    runs = [read_run(write_folder(tmp_path / f'e-seed{seed}', seed)) for seed in (0, 1)]
    runs = [dataclasses.replace(run, entry='e') for run in runs]
    published = {'their run': {'accuracy': [[2, 30.0], [9, 60.0]]}}
    results = collect({'name': 'study', 'published': published}, {'e': dict(enumerate(runs))})
    page = render(runs, 'study', results)
    assert Outline(page).ids == ['study', *(name for name in SECTIONS if name != 'agreement')]
    chart = json.loads(page.split('id="chart-data">')[1].split('</script>')[0])['charts']['accuracy']
    parts = [(one['run'], one['part']) for one in chart['series']]
    of_ours = [('e', f'{split}, seed {seed}') for seed in (0, 1) for split in ('train', 'test')]
    assert parts == [*of_ours, ('their run', 'test')]
    assert chart['focus'] == 4 and chart['series'][-1]['points'] == [[2, 30.0], [9, 60.0]]


def test_accuracies_with_averaged_views_are_marked(tmp_path):
    folder = write_folder(tmp_path / 'run')
    assert 'iews averaged' not in render([read_run(folder)], 'run')
    for name in ('result', 'config'):
        path = folder / f'{name}.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), 'tta': 'mir<r>or'}))
    page = render([read_run(folder)], 'run')
    assert '60.00 % (views averaged: mir&lt;r&gt;or)' in page and 'Views averaged: the logits are the mean' in page
    data = json.loads(page.split('id="chart-data">')[1].split('</script>')[0])
    parts = [series['part'] for series in data['charts']['accuracy']['series']]
    assert parts == ['train', 'test (views averaged: mir<r>or)']


def test_what_is_missing_or_damaged_is_left_out(tmp_path):
    folder = write_folder(tmp_path / 'run')
    for path in filter(Path.is_file, folder.rglob('*')):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert set(Outline(render([read_run(folder)], 'run')).ids) >= {'summary', 'curves', 'configs'}
        path.write_bytes(whole)
    (tmp_path / 'empty').mkdir()
    assert write_run_report(tmp_path / 'empty').is_file()


CHECK = """
<script>
window.problems = [];
window.addEventListener('error', e => problems.push(e.message));
window.addEventListener('securitypolicyviolation', e => problems.push(e.blockedURI));
window.addEventListener('load', () => {
  const charts = [...document.querySelectorAll('[data-chart]')];
  const lines = () => charts[0].querySelectorAll('polyline').length;
  const before = lines();
  charts[0].querySelector('button.run').click();
  const hidden = lines();
  charts[0].querySelector('button.run').click();
  charts[0].querySelector('button.log').click();
  charts[0].querySelector('button.time').click();
  const svg = charts[0].querySelector('svg'), right = svg.getBoundingClientRect().right - 20;
  svg.dispatchEvent(new PointerEvent('pointermove', {clientX: right, clientY: 100}));
  const tip = charts[0].querySelector('.tip').textContent;
  const text = charts[0].querySelector('svg').textContent;
  const found = {problems, before, hidden, after: lines(), time: text.includes('seconds'), hacked: window.hacked || 0, tip,
    charts: charts.length, drawn: document.querySelectorAll('svg').length,
    beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    ground: getComputedStyle(document.body).backgroundColor};
  document.body.setAttribute('data-found', JSON.stringify(found));
});
</script>
"""


def browse(path, profile, *more):
    """Opens a page in Chromium and returns what CHECK finds there."""
    page = path.read_text()
    policy = page[page.index('<meta http-equiv') : page.index('<meta name="viewport"')]
    # The probe is a script of the test's own: it comes before the policy, which does not undo what has run.
    path.write_text(page.replace(policy, CHECK + policy))
    flags = [
        *more,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
    ]
    flags += ['--disable-component-update', '--disable-sync', '--enable-logging=stderr', '--virtual-time-budget=3000']
    command = ['chromium', *flags, f'--user-data-dir={profile}', '--dump-dom', path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert 'CONSOLE' not in done.stderr, done.stderr

    class Found(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == 'body':
                self.found = json.loads(dict(attributes)['data-found'])

    parser = Found()
    parser.feed(done.stdout)
    return parser.found


browser = pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium on the PATH')


@browser
def test_in_a_browser_nothing_fails_and_toggles_work(nasty_page, tmp_path):
    actual = browse(nasty_page, tmp_path / 'profile')
    assert actual['problems'] == [] and actual['hacked'] == 0
    assert (actual['before'], actual['hidden'], actual['after']) == (4, 2, 4)
    assert actual['time'] and actual['charts'] == actual['drawn'] == 10
    assert 'first, test: 44.44 at 12' in actual['tip'] and 'second, train' in actual['tip']


@browser
def test_a_study_on_a_small_dark_screen(tmp_path):
    entries = {
        name: {
            seed: dataclasses.replace(read_run(write_folder(tmp_path / f'{name}{seed}', seed)), entry=name) for seed in (0, 1)
        }
        for name in ('base', 'a rather long name of an entry')
    }
    runs = [run for seeds in entries.values() for run in seeds.values()]
    failed = {0: dataclasses.replace(read_run(tmp_path), failed={'reason': 'error: diverged'})}
    results = collect({'name': 'study', 'baseline': 'base'}, {**entries, 'broken': failed})
    page = write_report(runs, tmp_path / 'study.html', 'study', results)
    dark = ('--window-size=500,900', '--blink-settings=preferredColorScheme=0')
    actual = browse(page, tmp_path / 'profile', *dark)
    assert actual['problems'] == [] and actual['charts'] == actual['drawn'] > 0
    assert actual['beyond'] == 0  # wide tables scroll, the page does not
    assert actual['ground'] == 'rgb(20, 23, 28)'
