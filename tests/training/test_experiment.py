import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from resnet_jax.data.order import epoch_order
from resnet_jax.errors import ConfigError
from resnet_jax.network import build_model
from resnet_jax.runtime.devices import AXIS
from resnet_jax.training import loading, program, step
from resnet_jax.training.experiment import check_batch_size, create_experiment
from resnet_jax.training.freezing import NOTHING
from resnet_jax.training.lookahead import pull

FIRST_OF_SEED_0 = [47848, 34552, 24994, 32827, 31943, 24289]
FIRST_OF_EPOCH_1 = [12569, 42502, 35289, 26576, 22685, 6123]
FIRST_OF_SEED_1 = [39437, 40690, 7668, 21961, 37690, 15115]


STRIPES = tiny.dataset()


def create(*, learning_rate_scale=1.0, **overrides):
    return create_experiment(tiny.checked(**overrides), STRIPES.info, learning_rate_scale=learning_rate_scale)


def test_epoch_order_of_a_seed_and_an_epoch_is_fixed_for_ever():
    """Raw Philox integers: another NumPy, platform or number of devices must give these numbers."""
    assert epoch_order(0, 0, 50_000, 128)[0, :6].tolist() == FIRST_OF_SEED_0
    assert epoch_order(0, 1, 50_000, 128)[0, :6].tolist() == FIRST_OF_EPOCH_1
    assert epoch_order(1, 0, 50_000, 128)[0, :6].tolist() == FIRST_OF_SEED_1


def test_epoch_order_is_a_permutation_without_what_does_not_fill_a_batch():
    full = epoch_order(3, 2, 60, 12)
    assert full.shape == (5, 12) and full.dtype == np.int32
    assert sorted(full.ravel()) == list(range(60))
    short = epoch_order(3, 2, 60, 16)
    assert short.shape == (3, 16)
    np.testing.assert_array_equal(short.ravel(), full.ravel()[:48])


def test_every_epoch_leaves_other_examples_out():
    left_out = [set(range(50)) - set(epoch_order(0, epoch, 50, 16).ravel()) for epoch in range(4)]
    assert all(len(out) == 2 for out in left_out)
    assert len(set.union(*left_out)) > 4


def test_steps_are_derived():
    experiment = create(num_epochs=4, batch_size=16, warmup_epochs=1.5)
    assert (experiment.steps_per_epoch, experiment.total_steps) == (3, 12)  # 50 examples: 3 full batches
    rates = [float(experiment.schedule(step)) for step in range(13)]
    assert rates[0] == 0 and rates[4] == max(rates) and rates[12] == pytest.approx(0, abs=1e-8)  # round(1.5 * 3) steps


def test_the_learning_rate_grows_with_the_batch():
    def peak(**overrides):
        experiment = create(schedule='constant', warmup_epochs=0, learning_rate=0.1, **overrides)
        return float(experiment.schedule(0))

    assert peak(batch_size=16, base_batch_size=16) == pytest.approx(0.1)
    assert peak(batch_size=48, base_batch_size=16) == pytest.approx(0.3)
    assert peak(batch_size=8, base_batch_size=16) == pytest.approx(0.05)
    assert peak(batch_size=48, base_batch_size=0) == pytest.approx(0.1)


def test_the_batch_size_moves_what_follows_from_it():
    small, large = create(batch_size=8), create(batch_size=24)
    assert (small.steps_per_epoch, large.steps_per_epoch) == (6, 2)
    assert float(small.schedule(6)) == pytest.approx(float(large.schedule(2)))  # both at the end of the warm-up


def test_examples_are_counted_without_their_arrays():
    assert create().num_examples == 50
    assert (create(validation_size=12).num_examples, create(validation_size=12).steps_per_epoch) == (38, 2)
    assert (create(train_size=30).num_examples, create(train_size=30).steps_per_epoch) == (30, 1)
    assert create(train_size=50).num_examples == 50


def test_every_rate_is_scaled_after_a_divergence():
    """Those of biases, of the head and of a whitening layer's bias too, which are absolute in the config."""
    recipe = {
        'model': 'speedrun94',
        'model_kwargs': {'widths': (8,)},
        'momentum': 0.0,
        'weight_decay': 0.0,
        'schedule': 'constant',
        'warmup_epochs': 0.0,
        'bias_learning_rate': 0.3,
        'head_learning_rate': 0.7,
        'whitening_bias_epochs': 2.0,
    }
    steps = []
    for scale in (1.0, 0.25):
        experiment = create(learning_rate_scale=scale, **recipe)
        params = {
            'whiten': {'kernel': jnp.zeros((2, 2, 1, 8)), 'bias': jnp.zeros(8)},
            'conv': {'kernel': jnp.zeros((3, 3, 8, 8)), 'bias': jnp.zeros(8)},
            'fc': {'kernel': jnp.zeros((8, 3))},
        }
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, _ = experiment.tx.update(gradients, experiment.tx.init(params), params)
        steps.append(jax.tree.map(lambda leaf: -float(leaf.ravel()[0]), updates))
    rates = [0.0, 0.3, 0.05, 0.3, 0.7]  # in the order whiten, conv, fc
    first = [
        steps[0][a][b]
        for a, b in (('whiten', 'kernel'), ('whiten', 'bias'), ('conv', 'kernel'), ('conv', 'bias'), ('fc', 'kernel'))
    ]
    assert first == pytest.approx(rates)
    jax.tree.map(lambda whole, quarter: np.testing.assert_allclose(quarter, whole / 4, rtol=1e-6), *steps)


def test_what_a_checkpoint_keeps_of_the_data():
    assert STRIPES.describe() == {
        'name': 'stripes',
        'fingerprint': 'stripes 50 19',
        'image_shape': [8, 8, 1],
        'class_names': ['top', 'middle', 'bottom'],
        'mean': [0.3],
        'std': [0.2],
    }


def test_the_state_has_averages_if_the_config_has_a_decay():
    without, with_decay = (jax.eval_shape(create(ema_decay=decay).create_state) for decay in (0, 0.9))
    assert without.ema == {}
    assert with_decay.ema == {'params': with_decay.params, 'batch_stats': with_decay.batch_stats}


@pytest.mark.parametrize(
    ('batch_size', 'devices', 'accumulation', 'examples', 'expected'),
    [
        (130, 4, 1, 50_000, [128, 132]),
        (126, 4, 2, 50_000, [120, 128]),
        (3, 4, 1, 50_000, [4]),
        (1, 8, 1, 50_000, [8]),
        (49, 4, 1, 50, [48]),
        (52, 4, 1, 50, [48]),
        (100_000, 4, 1, 50_000, [50_000]),
    ],
)
def test_a_batch_size_that_does_not_divide_names_those_that_do(batch_size, devices, accumulation, examples, expected):
    with pytest.raises(ConfigError) as info:
        check_batch_size(batch_size, devices, accumulation, examples)
    message = str(info.value)
    assert message.startswith(f'batch_size {batch_size} does not divide over {devices} devices')
    assert message.endswith('expected batch_size=' + ' or '.join(map(str, expected)))
    for size in expected:
        check_batch_size(size, devices, accumulation, examples)


def test_one_device_is_not_a_plural():
    with pytest.raises(ConfigError, match='over 1 device times 3 accumulation steps and 60 training examples'):
        check_batch_size(16, 1, 3, 60)


def test_too_few_examples_for_any_batch():
    with pytest.raises(ConfigError, match=r'^3 training examples do not fill a batch over 4 devices'):
        check_batch_size(4, 4, 1, 3)


def test_batch_sizes_that_divide():
    check_batch_size(128, 4, 1, 50_000)
    check_batch_size(128, 4, 32, 50_000)
    check_batch_size(50, 1, 1, 50)


def test_create_experiment_checks_the_batch_size_over_all_devices_and_parts():
    assert jax.device_count() == 4
    with pytest.raises(ConfigError, match=r'batch_size 18 .* over 4 devices .* expected batch_size=16 or 20$'):
        create(batch_size=18)
    with pytest.raises(ConfigError, match=r'over 4 devices times 3 accumulation steps .*=12 or 24$'):
        create(batch_size=16, gradient_accumulation_steps=3)
    with pytest.raises(ConfigError, match='38 training examples'):
        create(batch_size=40, validation_size=12)


def test_the_stem_follows_the_size_of_the_images():
    def stem(size, **overrides):
        return build_model(tiny.checked(**overrides), 3, (size, size, 3)).stem

    assert [stem(size) for size in (8, 64, 65, 224)] == ['cifar', 'cifar', 'imagenet', 'imagenet']
    assert stem(224, model_kwargs={'stem': 'cifar'}) == 'cifar'
    assert stem(224, init_from='weights.pth') == 'cifar'
    assert stem(224, model='d2l_resnet18', model_kwargs={}) == 'd2l'


def test_the_model_follows_the_config():
    def build(**overrides):
        return build_model(tiny.checked(**overrides), 3, (8, 8, 1))

    model = build()
    assert (model.num_classes, tuple(model.stage_sizes), model.num_filters) == (3, (1,), 4)
    assert jnp.dtype(model.dtype) == jnp.float32 and model.axis_name is None
    assert jnp.dtype(build(dtype='bfloat16').dtype) == jnp.bfloat16
    assert build(cross_device_batch_norm=True).axis_name == AXIS


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'model': 'resnet19'}, "unknown model 'resnet19'; did you mean 'resnet1"),
        ({'model_kwargs': {'num_filter': 4}}, "resnet8 has no argument 'num_filter'; did you mean 'num_filters'"),
        ({'model_kwargs': {'num_classes': 4}}, 'model_kwargs has num_classes; .* config.dataset alone'),
        ({'model_kwargs': {'name': 'x'}}, 'model_kwargs has name; .* config.model alone'),
        ({'model_kwargs': {'dtype': 'bfloat16'}}, 'model_kwargs has dtype; .* config.dtype alone'),
        ({'model': 'alexnet', 'model_kwargs': {}, 'cross_device_batch_norm': True}, 'alexnet has no BatchNorm'),
        ({'warmup_epochs': 4.0}, 'the warm-up takes .* epochs and the whole run'),
        ({'num_epochs': 2**31 - 1}, '2147483647 epochs of .* steps; expected at most 2147483647: lower num_epochs'),
        (
            {'model': 'speedrun94', 'model_kwargs': {}, 'whitening_bias_epochs': 1e308},
            r'whitening_bias_epochs is 1e\+308; expected at most',
        ),
        ({'validation_size': 50}, 'cannot hold out 50 of 50 examples'),
        ({'validation_size': 20, 'train_size': 31}, 'train_size is 31, but there are 30 training examples'),
    ],
)
def test_values_that_do_not_go_together(overrides, message):
    with pytest.raises(ConfigError, match=message):
        create(**overrides)


def test_one_cycle_ignores_the_warmup():
    rates = [create(schedule='one_cycle', warmup_epochs=epochs).schedule(0) for epochs in (0, 1e308)]
    assert rates[0] == rates[1] > 0


def test_the_step_and_its_batches_get_what_the_config_says():
    options = {'label_smoothing': 0.1, 'mixup_alpha': 0.2, 'crop_padding': 3, 'flip': True, 'cutout_size': 5}
    options |= {'crop_mode': 'reflect', 'alternating_flip': True, 'brightness': 0.14, 'contrast': 0.13}
    options |= {'auto_augment': 'randaugment', 'randaugment_num_ops': 3, 'randaugment_magnitude': 12}
    options |= {'resized_crop_area': 0.08, 'random_erasing_prob': 0.25, 'cutmix_alpha': 1.0, 'saturation': 0.4, 'hue': 0.1}
    options_of_step = {'accumulation': 2, 'ema_decay': 0.9, 'per_layer_grad_norms': True}
    checked = tiny.checked(**options, log_gradient_norms=True, ema_decay=0.9, gradient_accumulation_steps=2, dtype='bfloat16')
    experiment = create_experiment(checked, tiny.dataset(channels=3).info)
    run = program.steps_function(experiment)
    assert run.func is program.train_steps
    assert run.keywords['per_layer_grad_norms'] is True
    step_fn, load_fn = run.keywords['step_fn'], run.keywords['load_fn']
    assert step_fn.func is step.train_step
    expected = {'model': experiment.model, 'tx': experiment.tx, 'lookahead_fn': None, 'select_fn': None, **options_of_step}
    expected['frozen'] = NOTHING
    assert step_fn.keywords == expected
    assert load_fn.func is loading.load_batch
    data = {'num_classes': 3, 'mean': (0.3,) * 3, 'std': (0.2,) * 3, 'dtype': jnp.bfloat16, 'steps_per_epoch': 3}
    assert load_fn.keywords == {**options, **data}


def test_lookahead_gets_what_the_config_says():
    experiment = create(lookahead_sync_period=3, lookahead_decay=0.5)
    lookahead_fn = program.steps_function(experiment).keywords['step_fn'].keywords['lookahead_fn']
    assert lookahead_fn.func is pull
    assert lookahead_fn.keywords == {'sync_period': 3, 'decay': 0.5, 'total_steps': 12}
    state = jax.eval_shape(experiment.create_state)
    assert state.lookahead == {'params': state.params, 'batch_stats': state.batch_stats}
    assert jax.eval_shape(create().create_state).lookahead == {}
