import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from resnet_jax.config import ADDED_FIELDS, FIELDS, FREE_FIELDS, complete, difference, validate
from resnet_jax.errors import ConfigError


def default():
    return tiny.load_configs_module('default').get_config()


def changed(**values):
    return ConfigDict({**default().to_dict(), **values})


def test_default_has_every_field_and_no_other():
    assert set(default()) == set(FIELDS)
    assert set(FREE_FIELDS) <= set(FIELDS)


def test_the_result_is_what_json_reads_back():
    values = validate(changed(model_kwargs={'stage_sizes': (1, 2)}))
    assert values == json.loads(json.dumps(values))
    assert values['milestones'] == [0.5, 0.75]
    assert values['model_kwargs'] == {'stage_sizes': [1, 2]}
    assert type(values) is dict and type(values['model_kwargs']) is dict
    assert values['batch_size'] == 128 and values['flip'] is True


@pytest.mark.parametrize(
    ('name', 'nearest'),
    [
        ('batchsize', 'batch_size'),
        ('lerning_rate', 'learning_rate'),
        ('num_epoch', 'num_epochs'),
        ('weight_deacy', 'weight_decay'),
        ('Seed', 'seed'),
    ],
)
def test_unknown_field_names_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"^unknown config field '{name}'; did you mean '{nearest}'\?$"):
        validate(changed(**{name: 1}))


def test_unknown_field_like_no_other_lists_all():
    with pytest.raises(ConfigError, match=r"unknown config field 'zzzz'; expected one of seed, dataset, .*watchdog_seconds$"):
        validate(changed(zzzz=1))


def test_missing_field():
    config = default()
    with config.unlocked():
        del config.momentum
    with pytest.raises(ConfigError, match=r"config field 'momentum' is missing; start from configs/default.py"):
        validate(config)


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('batch_size', -5, 'an integer of at least 1'),
        ('batch_size', 0, 'an integer of at least 1'),
        ('batch_size', 128.0, 'an integer of at least 1'),
        ('batch_size', True, 'an integer of at least 1'),
        ('batch_size', '128', 'an integer of at least 1'),
        ('batch_size', None, 'an integer of at least 1'),
        ('batch_size', 2**31, 'an integer of at least 1'),
        ('seed', -1, 'an integer of at least 0'),
        ('learning_rate', float('nan'), 'a number above 0'),
        ('learning_rate', float('inf'), 'a number above 0'),
        ('learning_rate', -0.1, 'a number above 0'),
        ('learning_rate', 0, 'a number above 0'),
        ('learning_rate', 10**400, 'a number above 0'),
        ('learning_rate', [0.1], 'a number above 0'),
        ('weight_decay', -1e-4, 'a number of at least 0'),
        ('weight_decay', float('nan'), 'a number of at least 0'),
        ('momentum', 1.0, 'a number of at least 0 and below 1'),
        ('label_smoothing', 1, 'a number of at least 0 and below 1'),
        ('step_factor', 0, 'a number above 0 and at most 1'),
        ('step_factor', 1.5, 'a number above 0 and at most 1'),
        ('flip', 1, 'True or False'),
        ('flip', 'yes', 'True or False'),
        ('crop_mode', 'mirror', 'one of constant, reflect'),
        ('brightness', -0.1, 'a number of at least 0'),
        ('proxy_model', None, "a name, or '' for none"),
        ('selected_fraction', 0, 'a number above 0 and at most 1'),
        ('proxy_update_every', 0, 'an integer of at least 1'),
        ('tta', 'mirrors', r"one of none, mirror, mirror_translate \(did you mean 'mirror'\?\)"),
        ('contrast', 1.5, 'a number of at least 0 and at most 1'),
        ('dataset', '', 'a name'),
        ('model', 3, 'a name'),
        ('data_dir', None, "a path, or '' for none"),
        ('model_kwargs', 'wide', 'a dict of keyword arguments'),
        ('milestones', (0.75, 0.5), 'increasing fractions of the run'),
        ('milestones', (0.5, 1.0), 'increasing fractions of the run'),
        ('milestones', (0.5, float('nan')), 'increasing fractions of the run'),
        ('milestones', 0.5, 'increasing fractions of the run'),
        ('optimizer', 'adamW', r"one of sgd, adam, adamw, muon \(did you mean 'adamw'\?\)"),
        ('optimizer', None, 'one of sgd, adam, adamw'),
        ('schedule', 'cosin', r"one of cosine, linear, one_cycle, step, constant \(did you mean 'cosine'\?\)"),
        ('muon_steps', 0, 'an integer of at least 1'),
        ('muon_momentum', 1, 'a number of at least 0 and below 1'),
        ('bias_learning_rate', -1, 'a number of at least 0'),
        ('head_learning_rate', None, 'a number of at least 0'),
        ('whitening_bias_epochs', float('nan'), 'a number of at least 0'),
        ('lookahead_sync_period', 2.5, 'an integer of at least 0'),
        ('lookahead_decay', 1.1, 'a number of at least 0 and at most 1'),
        ('dtype', 'float16', r'one of float32, bfloat16 \(did you mean'),
        ('dtype', jnp.float32, 'one of float32, bfloat16'),
    ],
)
def test_wrong_values(name, value, expected):
    with pytest.raises(ConfigError, match=f"^config field '{name}' is .*; expected {expected}") as info:
        validate(changed(**{name: value}))
    assert '\n' not in str(info.value)


@pytest.mark.parametrize('value', [{'act': np.tanh}, {'dtype': jnp.bfloat16}, {'stage_sizes': {1, 2}}])
def test_model_kwargs_must_fit_into_config_json(value):
    with pytest.raises(ConfigError, match=r"config field 'model_kwargs' .*; expected numbers, strings"):
        validate(changed(model_kwargs=value))


def test_alternating_flip_needs_flip():
    validate(changed(alternating_flip=True))
    with pytest.raises(ConfigError, match=r'^alternating_flip .*expected --config.flip=True'):
        validate(changed(alternating_flip=True, flip=False))


def test_boundaries_are_allowed():
    validate(changed(seed=0, validation_size=0, momentum=0.0, step_factor=1.0, warmup_epochs=0, milestones=[], weight_decay=0))
    validate(changed(base_batch_size=0, label_smoothing=0.999, learning_rate=1, model_kwargs=ConfigDict({'num_filters': 4})))


def test_difference_names_what_defines_the_run():
    old = validate(default())
    assert difference(old, old) == []
    new = validate(changed(learning_rate=0.2, model='resnet20', model_kwargs={'num_filters': 8}))
    assert difference(old, new) == [
        'learning_rate: 0.1 -> 0.2',
        "model: 'resnet18' -> 'resnet20'",
        "model_kwargs: {} -> {'num_filters': 8}",
    ]


# The fields of the first runs. Whoever adds a field adds it to ADDED_FIELDS, not here: else those runs cannot be continued.
FIRST_FIELDS = re.findall(
    r'\w+',
    """seed dataset data_dir data_archive validation_size model model_kwargs dtype cross_device_batch_norm num_epochs
    batch_size gradient_accumulation_steps crop_padding flip cutout_size mixup_alpha label_smoothing optimizer learning_rate
    base_batch_size momentum nesterov weight_decay decay_norm_and_bias clip_norm ema_decay schedule warmup_epochs milestones
    step_factor eval_batch_size eval_every_epochs checkpoint_every_epochs log_every""",
)


def test_fields_that_came_later_are_known_with_their_defaults():
    assert set(FIELDS) - set(FIRST_FIELDS) == set(ADDED_FIELDS)
    values = validate(default())
    assert {name: values[name] for name in ADDED_FIELDS} == ADDED_FIELDS


def test_a_run_from_before_a_field_existed_had_its_default():
    new = validate(default())
    old = {name: new[name] for name in FIRST_FIELDS}
    assert complete(old) == new and complete(new) == new
    assert difference(old, new) == []
    assert difference(old, {**new, 'muon_steps': 5, 'seed': 1}) == ['muon_steps: 3 -> 5', 'seed: 0 -> 1']


def test_difference_of_a_field_that_one_lacks():
    assert difference({'a': 1}, {'a': 1, 'b': None}) == ['b: None -> None']
    assert difference({'a': 1, 'b': 2}, {'a': 1}) == ['b: 2 -> None']


@pytest.mark.parametrize('name', FREE_FIELDS)
def test_free_fields_may_change(name):
    old = validate(default())
    assert difference(old, {**old, name: 'anything'}) == []


@pytest.mark.parametrize('name', [name for name in FIELDS if name not in FREE_FIELDS])
def test_every_other_field_may_not(name):
    old = validate(default())
    assert len(difference(old, {**old, name: 'anything'})) == 1
