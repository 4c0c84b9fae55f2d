import pytest
import torch
from benchmark_support import config

from configs import resnet20
from resnet_jax.benchmark import peer
from resnet_jax.errors import ConfigError


@pytest.mark.filterwarnings('ignore::DeprecationWarning:torch')  # of torch.compile's own code
@pytest.mark.parametrize('mode', ['eager', pytest.param('compiled', marks=pytest.mark.slow)])
def test_the_peer_takes_steps(mode):
    subject = peer.TorchSteps(config(resnet20, batch_size=8), 'cpu')
    variant = f'channels_last float32 {mode}'
    assert variant in subject.describe()['variants']
    for what in ('train', 'eval'):
        assert getattr(subject, what)(steps=2, variant=variant) > 0


@pytest.mark.parametrize('all_decay', [True, False])
def test_the_peer_has_the_optimizer_of_the_config(all_decay):
    values = config(resnet20, momentum=0.8, nesterov=True, weight_decay=0.01, decay_norm_and_bias=all_decay)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    groups = peer._create_optimizer(model, values).param_groups
    actual = {p.ndim: group['weight_decay'] for group in groups for p in group['params']}
    assert actual == {2: 0.01, 1: 0.01 if all_decay else 0.0}
    assert all(group['momentum'] == 0.8 and group['nesterov'] for group in groups)
    assert sum(len(group['params']) for group in groups) == 4


@pytest.mark.parametrize(('field', 'value'), [('ema_decay', 0.9), ('tta', 'mirror'), ('proxy_model', 'resnet8')])
def test_the_peer_refuses_what_it_does_not_have(field, value):
    with pytest.raises(ConfigError, match=f'the PyTorch peer has no {field}'):
        peer.TorchSteps(config(**{field: value}), 'cpu')


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def broken(function, mode):
        def fails(*_):
            raise RuntimeError('CppCompileError: no g++\nand forty lines more')

        return fails

    monkeypatch.setattr(torch, 'compile', broken)
    with pytest.raises(ConfigError, match=r'^torch.compile failed: CppCompileError: no g.. and forty lines more$'):
        peer.TorchSteps(config(resnet20, batch_size=8), 'cpu').train(steps=1, variant='contiguous float32 compiled')
