import dataclasses

import pytest

from resnet_jax.report.results import collect
from resnet_jax.report.study_plots import plot_study
from resnet_jax.runs.reader import read_run


@pytest.fixture
def runs(tmp_path):
    """Two seeds of two entries, with curves and gradient norms."""
    empty = read_run(tmp_path)
    rows = [{'step': step, 'split': split, 'accuracy': 0.5, 'loss': 1.0} for step in (2, 4) for split in ('train', 'test')]
    rows += [{'step': step, 'split': 'gradients', 'norms': {'conv1': 0.5, 'fc': 2.0}} for step in (1, 4)]
    result = {'accuracy': 0.5, 'count': 100}
    return {
        name: {seed: dataclasses.replace(empty, entry=name, metrics=rows, result=result) for seed in (0, 1)} for name in 'ab'
    }


def every(runs):
    return [run for seeds in runs.values() for run in seeds.values()]


def test_plots_are_files_that_are_the_same_every_time(runs, tmp_path):
    study = {'name': 's', 'entries': {'a': {'expected': {'accuracy': 60.0, 'source': 'there'}}}}
    study['published'] = {'their run': {'accuracy': [[2, 30.0], [9, 60.0]]}}
    results = collect(study, runs)
    paths = plot_study(results, every(runs), tmp_path / 'plots')
    names = [f'{name}.{kind}' for name in ('accuracy', 'loss', 'final', 'gradient_norms') for kind in ('png', 'svg')]
    assert [path.name for path in paths] == names
    before = {path: path.read_bytes() for path in paths}
    assert all(data.startswith((b'\x89PNG', b'<?xml')) for data in before.values())
    accuracy = before[paths[1]].decode()
    # The legend has each once, in two panels, for what was published goes on beyond the runs.
    assert accuracy.count('<!-- their run -->') == 2 and accuracy.count('<!-- a -->') == 2
    assert plot_study(results, every(runs), tmp_path / 'plots') == paths
    assert {path: path.read_bytes() for path in paths} == before


@pytest.mark.slow
def test_many_entries_have_a_panel_for_each_baseline(runs, tmp_path):
    names = [f'{place}{part}' for place in range(6) for part in ('_base', '_other')]
    many = {name: {0: dataclasses.replace(runs['a'][0], entry=name)} for name in names}
    many |= {name: {0: dataclasses.replace(runs['a'][0], entry=name, result={})} for name in ('6_base', '6_other')}
    names += ['6_base', '6_other']  # which have not run
    study = {'name': 's', 'entries': {name: {'baseline': f'{name[0]}_base'} for name in names}}
    plot_study(collect(study, many), every(many), tmp_path)
    accuracy = (tmp_path / 'accuracy.svg').read_text()
    assert all(accuracy.count(f'<!-- {name} -->') == (name[0] != '6') for name in names)
    assert accuracy.count('<!-- iteration -->') == 6 and accuracy.count('<!-- accuracy (%) -->') == 2  # two rows of three


def test_a_loss_that_has_exploded_is_cut_off_and_named(runs, tmp_path):
    rows = [{'step': step, 'split': 'train', 'loss': 10.0 ** (3 * step), 'accuracy': 0.1} for step in (1, 2, 3)]
    runs['up'] = {0: dataclasses.replace(runs['a'][0], entry='up', metrics=rows, result={}, failed={'reason': 'diverged'})}
    plot_study(collect({'name': 's'}, runs), every(runs), tmp_path)
    loss, accuracy = ((tmp_path / f'{name}.svg').read_text() for name in ('loss', 'accuracy'))
    assert '<!-- loss (nats), cut off at the top -->' in loss and '<!-- up -->' in loss and 'cut off' not in accuracy


def test_what_there_is_nothing_of_is_not_drawn(runs, tmp_path):
    bare = {'a': {0: dataclasses.replace(runs['a'][0], metrics=[], result={})}}
    assert plot_study(collect({'name': ''}, bare), every(bare), tmp_path / 'plots') == []
    under_way = {'a': {0: dataclasses.replace(runs['a'][0], result={})}}
    assert plot_study(collect({'name': ''}, under_way), every(under_way), tmp_path / 'plots') == []
