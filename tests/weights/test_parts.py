import flax.linen as nn
import pytest
from small_models import CASES, image_size, small_kwargs

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.weights.match import model_shapes
from resnet_jax.weights.parts import blocks, first_kernel, head_names, select, stages

GREY = (16, 16, 1)


def resnet(**kwargs):
    return create_model('resnet18', 3, stage_sizes=(1, 2), num_filters=4, **kwargs)


@pytest.mark.parametrize('name', CASES)
def test_every_model_has_a_head_and_parts_that_hold_every_parameter_once(name):
    model, shape = create_model(name, **small_kwargs(name)), (image_size(name), image_size(name), 3)
    names = model_shapes(model, shape)
    head = head_names(model, shape)
    assert head and all(3 in names[each] for each in head)
    parts = blocks(model, shape)
    flat = [each for part in parts for each in part]
    assert sorted(flat) == sorted({each.split('/')[1] for each in names if each.startswith('params/')})
    assert {each.split('/')[1] for each in head} == {parts[-1][0]}
    assert first_kernel(model, shape).split('/')[1] in parts[0]
    assert [each for stage in stages(parts) for each in stage] == flat


def test_the_parts_of_networks_in_the_order_of_their_layers():
    assert blocks(resnet(), GREY) == [['conv1', 'bn1'], ['layer1_0'], ['layer2_0'], ['layer2_1'], ['fc']]
    assert stages(blocks(resnet(), GREY)) == [['conv1', 'bn1'], ['layer1_0'], ['layer2_0', 'layer2_1'], ['fc']]
    assert blocks(resnet(stem='deep'), GREY)[0] == ['stem_conv1', 'stem_bn1', 'stem_conv2', 'stem_bn2', 'stem_conv3', 'bn1']
    preact = create_model('resnet164', 3, stage_sizes=(1, 1))
    assert blocks(preact, GREY) == [['conv1'], ['layer1_0'], ['layer2_0', 'final_bn'], ['fc']]
    assert blocks(create_model('lenet5'), (32, 32, 1)) == [['conv1'], ['conv2'], ['fc1'], ['fc2'], ['fc3']]


class Own(nn.Module):
    """A network of a user's own, which does not say its number of classes, and whose layers' names are not in order."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3), name='z')(images)
        x = nn.GroupNorm(2, name='b')(x).mean((1, 2))
        return nn.Dense(3, name='a')(x)


def test_a_network_of_ones_own():
    assert blocks(Own(), GREY) == [['z', 'b'], ['a']]
    assert head_names(Own(), GREY) == {'params/a/kernel', 'params/a/bias'}


@pytest.mark.parametrize(
    ('pattern', 'layers'),
    [
        ('conv1', {'conv1'}),  # not the first convolution of a block
        ('layer1_0/bn1', {'layer1_0/bn1'}),
        ('layer2_*', {f'layer2_{i}/{kind}{n}' for i in (0, 1) for kind in ('conv', 'bn') for n in (1, 2)}),
        ('conv1, bn1', {'conv1', 'bn1'}),
        ('head', {'fc'}),
        ('*/conv[12]/kernel,head', {f'layer{i}/conv{n}' for i in ('1_0', '2_0', '2_1') for n in (1, 2)} | {'fc'}),
    ],
)
def test_what_a_pattern_selects(pattern, layers):
    model = resnet(shortcut='identity')
    names = model_shapes(model, GREY)
    chosen = select(pattern, names, head_names(model, GREY), 'freeze')
    assert {name.partition('/')[2].rpartition('/')[0] for name in chosen} == layers
    rest = names.keys() - select('backbone', names, head_names(model, GREY), 'freeze')
    assert {name.split('/')[1] for name in rest} == {'fc'}


def test_a_pattern_that_selects_nothing_lists_what_there_is():
    names = model_shapes(create_model('resnet110'), (8, 8, 3))
    with pytest.raises(ConfigError) as caught:
        select('bn1,leyer1_0/conv1', names, set(), 'init_only')
    text = str(caught.value)
    assert "init_only has 'leyer1_0/conv1', which matches no layer; did you mean 'layer1_0/conv1'?" in text
    assert 'layer1_0, layer1_1' in text and '... (57 in all), backbone, head' in text and len(text) < 700
