import csv
import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from resnet_jax.report.overview import difference, ranking, study
from resnet_jax.report.results import NOISE, collect, write_results
from resnet_jax.runs.reader import read_run
from resnet_jax.significance import mcnemar


@pytest.fixture
def run(tmp_path):
    """Makes a run of an accuracy, with the answers that give it: the first ones of 100 images right; or one that failed."""
    empty = read_run(tmp_path)

    def make(accuracy=None, reason=None):
        if accuracy is None:
            return dataclasses.replace(empty, failed={'reason': reason} if reason else {})
        right = (np.arange(100) < 100 * accuracy).astype(np.float32)
        answers = {'log_probabilities': np.stack([right, 1 - right], 1), 'labels': np.zeros(100, int)}
        return dataclasses.replace(empty, result={'accuracy': accuracy, 'count': 100, 'tta': 'mirror'}, **answers)

    return make


def test_means_over_seeds_and_no_winner_inside_the_noise(run, tmp_path):
    entries = {
        'base': {0: run(0.70), 1: run(0.72), 2: run(0.74)},
        'up': {0: run(0.80), 1: run(0.82), 2: run(0.841)},
        'noise': {0: run(0.75), 1: run(0.70), 2: run(0.76)},
        'single': {0: run(0.9), 1: run(), 2: run()},
        'none': {0: run()},
        'broken': {0: run(reason='diverged')},
    }
    actual = collect({'name': 'a study'}, entries)
    statuses = [entry['status'] for entry in actual['entries'].values()]
    assert statuses == ['run', 'run', 'run', 'partly run', 'not run', 'failed']
    base = actual['entries']['base']['accuracy']
    assert (base['mean'], base['sd']) == (pytest.approx(0.72), pytest.approx(0.02))
    verdicts = {name: one['verdict'] for name, one in actual['comparisons'].items()}
    assert verdicts == {
        'up': 'better',
        'noise': 'no difference established',
        'single': 'one seed: says nothing of the recipe',
    }
    paths = write_results(actual, tmp_path)
    assert json.loads(paths[0].read_text(), parse_constant=pytest.fail) == json.loads(json.dumps(actual))
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert {row['tta'] for row in rows[:-1]} == {'mirror'}
    assert [row['entry'] for row in rows] == ['base'] * 3 + ['up'] * 3 + ['noise'] * 3 + ['single', 'broken']
    assert (rows[0]['accuracy'], rows[-1]['failed'], rows[-1]['accuracy']) == ('0.7', 'diverged', '')


def test_networks_are_compared_on_the_same_images_with_p_corrected_for_all_of_the_study(run):
    entries = {'base': {0: run(0.7), 1: run(0.7)}, 'a': {0: run(0.9), 1: run(0.71)}, 'b': {0: run(0.75), 1: run(0.95)}}
    actual = collect({'name': '', 'entries': {'b': {'baseline': 'a'}}}, entries)['comparisons']
    assert actual['a']['baseline'] == 'base' and actual['b']['baseline'] == 'a'
    pairs = [actual[name]['pairs'][seed] for name in 'ab' for seed in '01']
    assert [pair['p'] for pair in pairs] == [mcnemar(20, 0), mcnemar(1, 0), mcnemar(0, 15), mcnemar(24, 0)]
    p24, p20, p15 = mcnemar(24, 0), mcnemar(20, 0), mcnemar(15, 0)
    assert [pair['p_holm'] for pair in pairs] == pytest.approx([3 * p20, 1.0, 2 * p15, 4 * p24])


def test_the_same_difference_twice_is_no_certainty(run):
    """Of a hundred images one more is right with each seed: equal differences, without deviation."""
    entries = {'base': {0: run(0.70), 1: run(0.71)}, 'one': {0: run(0.71), 1: run(0.72)}}
    noise = collect({'name': ''}, entries)['comparisons']['one']
    assert noise['verdict'] == 'no difference established' and noise['low'] < 0 < noise['high']
    assert noise['sd'] == pytest.approx(0.01 / 6**0.5)


def test_seeds_that_agree_on_the_choice_of_images_alone_settle_nothing(run):
    """Three images of a hundred, with each of five seeds: certain over seeds, but not over test images."""
    entries = {name: {seed: run(right) for seed in range(5)} for name, right in (('base', 0.7), ('three', 0.73))}
    actual = collect({'name': ''}, entries)['comparisons']['three']
    assert actual['p_holm'] < 1e-3 and actual['images']['low'] < 0 and actual['verdict'] == 'no difference established'


def test_differences_are_corrected_for_how_many_there_are(run):
    def seeds(*gains):
        return {seed: run(0.5 + gain) for seed, gain in enumerate(gains)}

    near = {f'near{i}': seeds(0.0, 0.02, -0.02) for i in range(9)}
    entries = {'base': seeds(0.0, 0.0, 0.0), 'up': seeds(0.14, 0.2, 0.26)}
    alone = collect({'name': ''}, entries)['comparisons']['up']
    among = collect({'name': ''}, {**entries, **near})['comparisons']['up']
    t_test = scipy.stats.ttest_1samp([0.14, 0.2, 0.26], 0).pvalue
    assert alone['p'] == among['p'] == pytest.approx(t_test) and alone['verdict'] == 'better'
    assert among['p_holm'] == pytest.approx(10 * t_test) and among['verdict'] == 'no difference established'


def test_what_is_said_of_a_difference_claims_no_more_than_it_shows(run):
    two = {'base': {0: run(0.5), 1: run(0.5)}, 'apart': {0: run(0.7), 1: run(0.9)}, 'near': {0: run(0.5), 1: run(0.52)}}
    actual = collect({'name': ''}, two)['comparisons']
    assert actual['apart']['verdict'] == 'no difference established'  # 2 seeds: t is 12.7
    text = difference(actual['apart'])
    assert 'trained with all 2 seeds are better on these test images, but so few seeds settle no recipe' in text
    assert text.startswith('+30.00 to base (-97.06 to +100.00): no difference established')
    assert 'better' not in difference(actual['near']) and 'worse' not in difference(actual['near'])
    one = collect({'name': ''}, {'base': {0: run(0.9)}, 'other': {0: run(0.5)}})['comparisons']['other']
    assert 'one seed: says nothing of the recipe; the networks trained with this seed are worse' in difference(one)
    assert difference(None) == '-'


def test_published_figures_stand_beside_what_was_not_run(run):
    expected = {'accuracy': 91.25, 'source': 'a paper, <table> 6'}
    spec = {'name': '', 'entries': {'resnet20': {'expected': expected}}}
    page = study(collect(spec, {'resnet20': {0: run()}, 'own': {0: run(0.5)}})).content
    assert 'not run' in page and '91.25 %' in page and 'a paper, &lt;table&gt; 6' in page
    assert 'published' not in study(collect({'name': ''}, {'own': {0: run(0.5)}})).content


def test_no_cell_is_a_formula(run, tmp_path):
    results = collect({}, {'=cmd|x': {0: run(0.5)}, 'plain': {0: run(reason='@SUM(A1)')}})
    _, table = write_results(results, tmp_path)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row['entry'] for row in rows] == ["'=cmd|x", 'plain'] and rows[1]['failed'] == "'@SUM(A1)"


def test_an_entry_that_may_end_when_it_is_decided_is_tested_more_strictly(run):
    entries = {'base': {0: run(0.5), 1: run(0.5), 2: run()}, 'up': {0: run(0.80), 1: run(0.78), 2: run()}}
    p = scipy.stats.ttest_1samp([0.30, 0.28], 0).pvalue
    assert 0.05 / 3 < p < 0.05 / 2
    for looks, verdict, status in ((1, 'better', 'partly run'), (2, 'better', 'decided'), (3, NOISE, 'partly run')):
        actual = collect({'looks': looks}, entries)
        assert actual['comparisons']['up']['verdict'] == verdict
        assert {entry['status'] for entry in actual['entries'].values()} == {status}
        assert ('0.05 / 3' in study(actual).caption) == (looks == 3)


def test_each_field_that_differs_is_a_column(run, tmp_path):
    configs = {
        'a': {'learning_rate': 0.1, 'seed': 0, 'model_kwargs': {'stem': 'cifar'}},
        'b': {'learning_rate': 0.2, 'seed': 1, 'model_kwargs': {}},
    }
    entries = {name: {0: dataclasses.replace(run(0.5), config=config)} for name, config in configs.items()}
    with write_results(collect({}, entries), tmp_path)[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [row['config.learning_rate'] for row in rows] == ['0.1', '0.2']
    assert [row['config.model_kwargs.stem'] for row in rows] == ['cifar', ''] and 'config.seed' not in rows[0]


def test_the_page_ranks(run):
    section = ranking(collect({}, {'a': {0: run(0.5), 1: run(0.52)}, 'b': {0: run(0.9), 1: run(0.91)}}))
    assert section.caption.startswith('b has the highest mean accuracy. All others are worse.')
    assert section.content.index('90.50 %') < section.content.index('51.00 %') and 'yes, p = ' in section.content
    assert ranking(collect({}, {'a': {0: run(0.5)}})) is None


def test_a_ranking_says_if_it_is_not_of_all_entries(run):
    entries = {name: {0: run(0.5)} for name in 'abcd'}
    actual = collect({'entries': {'c': {'baseline': 'c'}, 'd': {'baseline': 'c'}}}, entries)
    assert ranking(actual).caption.startswith('Of the entries that are compared with a, a has the highest mean accuracy.')
