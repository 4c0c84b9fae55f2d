import pytest
from commands_support import error_line
from installed import resnet_jax

from resnet_jax.models import available_models


def test_it_names_the_models(tmp_path):
    assert tuple(resnet_jax(tmp_path, 'models').stdout.split()) == available_models()


def test_it_prints_the_layers_of_one(tmp_path):
    flags = '--image=224', '--num_classes=1000', '--model_kwargs=stem=imagenet'
    lines = resnet_jax(tmp_path, 'models', 'resnet50', *flags).stdout.splitlines()
    assert lines[-1].split() == ['total', '25,557,032', '4,089,184,256']


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        pytest.param(['resnet20', 'resnet32'], "unexpected argument 'resnet32'; expected one model", marks=pytest.mark.slow),
        (['resnet21'], "unknown model 'resnet21'; did you mean"),
        pytest.param(
            ['resnet20', '--model_kwargs=stm=d2l'],
            "resnet20 has no argument 'stm'; did you mean 'stem'",
            marks=pytest.mark.slow,
        ),
        (['alexnet', '--image=8'], '8x8 pixels are too small'),
    ],
)
def test_a_mistake_is_one_line(arguments, text, tmp_path):
    assert text in error_line(resnet_jax(tmp_path, 'models', *arguments, code=2))


def test_it_lists_published_weights(tmp_path):
    lines = resnet_jax(tmp_path, 'models', '--weights', 'resnet20').stdout.splitlines()
    assert lines[0].split() == ['chenyaofo/resnet20.cifar10', '92.60', '%', 'cifar10', '32x32x3', 'bsd-3-clause']
    assert len(lines) == 3
    assert resnet_jax(tmp_path, 'models', '--weights', 'wrn_28_10').stdout == ''
