import ast
import json
import typing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from python_source import parse

from resnet_jax.config import (
    TrainConfig,
    default_config,
    fields,
)
from resnet_jax.config_changes import changed_fields, check_continues, describe_changes
from resnet_jax.errors import ConfigError

FIELDS = {field.name: field for field in fields()}
PACKAGE = Path(__file__).parent.parent / 'resnet_jax'


def changed(**values):
    return ConfigDict({**default_config().to_dict(), **values})


def validate(config):
    return TrainConfig.from_mapping(config)


def test_the_default_config_has_every_field_at_its_default():
    assert set(default_config()) == set(FIELDS)
    assert validate(default_config()) == TrainConfig() == validate({})
    first, second = default_config(), default_config()
    first.model_kwargs.num_filters = 3
    assert 'num_filters' not in second.model_kwargs


def test_every_field_says_what_it_means_and_has_a_type():
    types = typing.get_type_hints(TrainConfig)
    for name, field in FIELDS.items():
        assert field.metadata['meaning'].endswith('.') and field.metadata['changes'] in ('never', 'on_request', 'freely')
        assert name in types
    assert next(iter(FIELDS.values())).metadata['section']


def defaults(node):
    """Yields (name, default, line) of the parameters of a function and the fields of a class."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        given = node.args
        places = [*given.posonlyargs, *given.args]
        pairs = [*zip(places[len(places) - len(given.defaults) :], given.defaults, strict=True)]
        for parameter, default in [*pairs, *zip(given.kwonlyargs, given.kw_defaults, strict=True)]:
            yield parameter.arg, default
    elif isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, field.value


# Of the name of a field, and something else: images that are explained at once, images that a table of layers is for.
OTHERS = {('explanations.py', 'batch_size'), ('introspection.py', 'image_size')}
OFF = (None, False, 0, 1.0, '', 'none', ())  # with such a value nothing is done, or nothing is known


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_default_stands_twice(path):
    """A parameter or field with the name of a field of the config has that field's default by reference, or none, or is off."""
    if path.name == 'config.py':
        return
    for node in ast.walk(parse(path)):
        for name, default in defaults(node):
            if name in FIELDS and (path.name, name) not in OTHERS and isinstance(default, ast.Constant | ast.Tuple):
                assert ast.literal_eval(default) in OFF, f'line {default.lineno}: {name} = {ast.unparse(default)}'


def test_no_list_of_choices_stands_twice():
    """In a list, tuple or set; a table has them as keys."""
    lists = {
        frozenset(field.metadata['check'].choices) for field in FIELDS.values() if len(field.metadata['check'].choices) > 1
    }
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(parse(path)) if path.name != 'config.py' else ():
            if isinstance(node, ast.List | ast.Tuple | ast.Set) and all(isinstance(item, ast.Constant) for item in node.elts):
                assert frozenset(item.value for item in node.elts) not in lists, f'{path}, line {node.lineno}'


def test_the_result_is_what_json_reads_back():
    config = validate(changed(model_kwargs={'stage_sizes': (1, 2)}))
    values = config.to_dict()
    assert values == json.loads(json.dumps(values)) and validate(values) == config
    assert values['milestones'] == [0.5, 0.75]
    assert values['model_kwargs'] == {'stage_sizes': [1, 2]} == config.model_kwargs
    assert config.batch_size == 128 and config.flip is True


def test_it_is_frozen_and_a_copy_is_checked():
    with pytest.raises(AttributeError):
        TrainConfig().seed = 1
    assert TrainConfig().replace(seed=1).seed == 1
    with pytest.raises(ConfigError, match='batch_size'):
        TrainConfig().replace(batch_size=0)


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
        ('seed', 3_000_000_000, 'an integer of at least 0 and at most 2147483647'),
        ('learning_rate', float('nan'), 'a number above 0'),
        ('learning_rate', float('inf'), 'a number above 0, and finite'),
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
        ('hue', 0.6, 'a number of at least 0 and at most 0.5'),
        ('auto_augment', 'rand_augment', r"one of none, randaugment, trivialaugment \(did you mean 'randaugment'\?\)"),
        ('randaugment_magnitude', 31, 'an integer of at least 0 and at most 30'),
        ('class_weights', 'balance', "'' for none, 'balanced', or a number above 0 for each class"),
        ('class_weights', (1.0, 0.0), "'' for none, 'balanced', or a number above 0 for each class"),
        ('class_weights', (), "'' for none, 'balanced', or a number above 0 for each class"),
        ('class_weights', None, "'' for none, 'balanced', or a number above 0 for each class"),
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
        ('muon_steps', 101, 'an integer of at least 1 and at most 100'),
        ('crop_padding', 513, 'an integer of at least 0 and at most 512'),
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


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def list_in_itself():
    value = [0.5]
    value.append(value)
    return value


def dict_in_itself():
    value = {}
    value['a'] = value
    return value


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('milestones', nested(5000)),
        ('milestones', list_in_itself()),
        ('milestones', [0.1] * 10**5 + [0.05]),
        ('milestones', (10**5000,)),
        ('crop_mode', nested(5000)),
        ('dtype', 'float' * 10**5),
        ('seed', 10**5000),
        ('class_weights', list_in_itself()),
        ('model_kwargs', dict_in_itself()),
        ('model_kwargs', {'stage_sizes': list_in_itself()}),
        ('model_kwargs', {'stage_sizes': nested(5000)}),
        ('model_kwargs', {'num_filters': 10**5000}),
    ],
    ids=lambda value: value if isinstance(value, str) and value in FIELDS else 'endless',
)
def test_wrong_values_without_end_are_cut_short(name, value):
    with pytest.raises(ConfigError, match=f"^config field '{name}' is .*; expected [^;]*$") as info:
        TrainConfig.from_mapping({name: value})
    assert len(str(info.value)) < 1000


def test_a_config_may_not_contain_itself():
    config = default_config()
    config.model_kwargs.a = config
    with pytest.raises(ConfigError, match=r"'model_kwargs' is|contains itself"):
        validate(config)


def test_the_middle_of_a_long_message_is_left_out():
    message = str(ConfigError(f'no data set {"x" * 10**6!r}; expected another'))
    assert len(message) < 5000 and message.startswith('no data set') and message.endswith('expected another')


@pytest.mark.parametrize('value', [{'act': np.tanh}, {'dtype': jnp.bfloat16}, {'stage_sizes': {1, 2}}])
def test_model_kwargs_must_fit_into_config_json(value):
    with pytest.raises(
        ConfigError, match=r"config field 'model_kwargs' .*; expected a dict of keyword arguments: numbers, strings"
    ):
        validate(changed(model_kwargs=value))


def test_alternating_flip_needs_flip():
    validate(changed(alternating_flip=True))
    with pytest.raises(ConfigError, match=r'^alternating_flip .*expected flip=True'):
        validate(changed(alternating_flip=True, flip=False))


def test_class_weights_are_a_word_or_numbers_in_a_config_file_and_in_config_json():
    for value, kept in (('balanced', 'balanced'), ((1, 2.5), (1.0, 2.5)), ([1, 2], (1.0, 2.0)), (np.array([1, 2]), (1.0, 2.0))):
        config = default_config()
        config.class_weights = value
        checked = TrainConfig.from_mapping(config)
        assert checked.class_weights == kept
        assert TrainConfig.from_mapping(json.loads(json.dumps(checked.to_dict()))) == checked
    with pytest.raises(ConfigError, match=r'^class_weights .*expected one of class_weights and proxy_model, not both'):
        validate(changed(class_weights='balanced', proxy_model='resnet8'))


def test_boundaries_are_allowed():
    validate(changed(seed=0, validation_size=0, momentum=0.0, step_factor=1.0, warmup_epochs=0, milestones=[], weight_decay=0))
    validate(changed(base_batch_size=0, label_smoothing=0.999, learning_rate=1, model_kwargs=ConfigDict({'num_filters': 4})))


def test_changes_are_named():
    old = TrainConfig()
    new = validate(changed(learning_rate=0.2, model='resnet20', model_kwargs={'num_filters': 8}, log_every=7))
    assert changed_fields(old, old, 'never', 'on_request', 'freely') == {}
    assert changed_fields(old, new, 'freely') == {'log_every': (250, 7)}
    never = "model: 'resnet18' -> 'resnet20'; model_kwargs: {} -> {'num_filters': 8}"
    assert describe_changes(changed_fields(old, new, 'never')) == never
    assert describe_changes(changed_fields(old, new, 'on_request')) == 'learning_rate: 0.1 -> 0.2'


# A value other than the default for every field that a run may not change by itself.
OTHER = {
    'seed': 1,
    'dataset': 'digits',
    'validation_size': 10,
    'train_size': 10,
    'model': 'resnet20',
    'test_fraction': 0.3,
    'image_size': 48,
    'resize': 'pad',
    'test_crop': 0.875,
    'decode': 'always',
    'normalization': 'imagenet',
    'broken_images': 'skip',
    'follow_links': True,
    'model_kwargs': {'num_filters': 8},
    'dtype': 'bfloat16',
    'cross_device_batch_norm': True,
    'num_epochs': 300,
    'batch_size': 64,
    'gradient_accumulation_steps': 2,
    'crop_padding': 2,
    'crop_mode': 'reflect',
    'flip': False,
    'alternating_flip': True,
    'resized_crop_area': 0.08,
    'saturation': 0.4,
    'hue': 0.1,
    'auto_augment': 'randaugment',
    'randaugment_num_ops': 3,
    'randaugment_magnitude': 12,
    'brightness': 0.1,
    'contrast': 0.1,
    'cutout_size': 8,
    'random_erasing_prob': 0.25,
    'mixup_alpha': 0.2,
    'cutmix_alpha': 1.0,
    'label_smoothing': 0.1,
    'class_weights': (1.0, 2.5),
    'proxy_model': 'resnet8',
    'proxy_model_kwargs': {'num_filters': 8},
    'selected_fraction': 0.25,
    'proxy_update_every': 2,
    'optimizer': 'adam',
    'learning_rate': 0.2,
    'base_batch_size': 256,
    'momentum': 0.8,
    'nesterov': False,
    'weight_decay': 1e-4,
    'decay_norm_and_bias': True,
    'clip_norm': 1.0,
    'bias_learning_rate': 0.3,
    'head_learning_rate': 0.3,
    'whitening_bias_epochs': 1.0,
    'muon_momentum': 0.7,
    'muon_steps': 5,
    'lookahead_sync_period': 5,
    'lookahead_decay': 0.5,
    'ema_decay': 0.9,
    'schedule': 'step',
    'warmup_epochs': 1.0,
    'milestones': (0.3,),
    'step_factor': 0.2,
    'init_from': 'runs/b',
    'init_only': 'backbone',
    'init_head': 'new',
    'init_ema': True,
    'freeze': 'backbone',
    'unfreeze_epochs': (2, 4),
    'layer_decay': 0.7,
    'tta': 'mirror',
    'eval_every_epochs': 2,
    'eval_every_steps': 100,
    'log_gradient_norms': True,
}


def test_every_field_that_defines_a_run_is_tried_below():
    assert OTHER.keys() == {name for name, field in FIELDS.items() if field.metadata['changes'] != 'freely'}


@pytest.mark.parametrize('name', OTHER)
def test_a_field_that_defines_a_run_may_not_change_unasked(name):
    needed = {'freeze': 'backbone'} if name == 'unfreeze_epochs' else {'init_from': 'a'} if name.startswith('init_') else {}
    old = TrainConfig(**needed)
    new = old.replace(**{name: OTHER[name]})
    with pytest.raises(ConfigError, match=rf'^runs/a holds a run of another config \({name}: .*, or delete it$'):
        check_continues(old, new, 'runs/a')
    if FIELDS[name].metadata['changes'] == 'on_request':
        check_continues(old, new, 'runs/a', allow_changes=True)
    elif name == 'num_epochs':
        check_continues(old, new, 'runs/a', extend=True)
        with pytest.raises(ConfigError, match=r'choose another run folder, or delete it$'):
            check_continues(new, old, 'runs/a', extend=True)
    else:
        with pytest.raises(ConfigError, match=r'choose another run folder, or delete it$'):
            check_continues(old, new, 'runs/a', extend=True, allow_changes=True)


def test_fields_that_may_change_freely():
    new = TrainConfig(deterministic=True, data_dir='/a', data_archive='/b', eval_batch_size=10, log_every=1)
    new = new.replace(checkpoint_every_epochs=2, divergence_retries=1, watchdog_seconds=60.0)
    check_continues(TrainConfig(), new, 'runs/a')


def test_what_to_ask_for_is_said():
    old, new = TrainConfig(), TrainConfig(num_epochs=300, learning_rate=0.2)
    with pytest.raises(ConfigError, match='continue with extend and allow_changes, or choose another run folder'):
        check_continues(old, new, 'runs/a')
    with pytest.raises(ConfigError, match='continue with allow_changes, or choose another run folder'):
        check_continues(old, new, 'runs/a', extend=True)
    check_continues(old, new, 'runs/a', extend=True, allow_changes=True)


def test_numbers_of_numpy_are_numbers():
    values = {
        'seed': np.int64(3),
        'learning_rate': np.float32(0.5),
        'nesterov': np.bool_(True),
        'milestones': np.array([0.25, 0.5]),
    }
    config = TrainConfig(**values, model_kwargs={'num_filters': np.int32(4), 'stage_sizes': np.array([1, 1])})
    assert config == TrainConfig(
        seed=3, learning_rate=0.5, nesterov=True, milestones=(0.25, 0.5), model_kwargs={'num_filters': 4, 'stage_sizes': [1, 1]}
    )
    assert type(config.seed) is int and json.dumps(config.to_dict())
    with pytest.raises(ConfigError, match=r"config field 'seed' is 0\.5; expected an integer"):
        TrainConfig(seed=np.float32(0.5))
