import argparse
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import http
import io
import ipaddress
import pathlib
import pickle
import random
import re
import types
import uuid
import zipfile
import zoneinfo
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import legacy_file, tensor_program, torch_file, zip_file

from resnet_jax.errors import InputFileError
from resnet_jax.weights.torch_file import read_torch, torch_bytes


def read(data):
    """The tensors of the largest dict of a file."""
    state_dict = next(iter(read_torch(data, Path('some.pth')).values()))
    return {name: state_dict.read(name) for name in state_dict.shapes}


def refusal(data):
    """The one line with which a file is refused."""
    with pytest.raises(InputFileError) as info:
        read(data)
    message = str(info.value)
    assert message.startswith('some.pth ') and message.isprintable() and len(message) < 500, message
    return message


def some_tensors():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return collections.OrderedDict(
        base=base,
        transposed=base.t(),
        part=base[1:3, ::2],  # shares base's storage
        half=torch.randn(3).half(),
        bfloat=torch.randn(2, 2).bfloat16(),
        double=torch.randn(2).double(),
        count=torch.tensor(7),
        flag=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.randn(2)),
    )


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('legacy', [False, True])
def test_it_reads_what_torch_saves(legacy, protocol):
    tensors = some_tensors()
    result = read(torch_file(tensors, legacy, pickle_protocol=protocol))
    assert list(result) == list(tensors)
    for name, tensor in tensors.items():
        assert result[name].dtype.name == str(tensor.dtype).removeprefix('torch.')
        np.testing.assert_array_equal(result[name].astype(np.float64), tensor.detach().double().numpy())


def test_it_finds_the_state_dicts_of_a_training_checkpoint():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {'epoch': 3, 'optimizer': optimizer.state_dict(), 'model': {'weights': model.state_dict()}, 'list': [1, (2, None)]}
    saved['itself'] = saved
    actual = read_torch(torch_file(saved), Path('some.pth'))
    assert list(actual['model/weights'].shapes) == ['weight', 'bias']


def accepted(training):
    """What torch.load(weights_only=True) reads, beside a state dict."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = 'an attribute'
    return {
        'schedulers': [torch.optim.lr_scheduler.MultiStepLR(training, [3, 3, 5]).state_dict()],
        'sets': {1, 2, (3, 4)},
        'bytes': [b'\xff' * 300, bytearray(b'\x00' * 9), b'ab'],
        'numbers': [1 + 2j, 2**70, 1e300],
        'torch': [torch.Size([1, 2]), torch.float16, torch.device('cpu'), torch.strided],
        'tensors': {
            'complex': torch.ones(2, dtype=torch.complex64),
            'sparse': torch.eye(3).to_sparse(),
            'parameter': parameter,
        },
        'quantized': torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        'float8': torch.ones(3).to(torch.float8_e5m2),
        'keys': {None: 1, True: 2, 1.5: 3, (1, (2, 3)): 4, b'a': 5, 2**70: 6, torch.float32: 7, torch.ones(1): 8},
        'bits': [torch.bits8, torch.bits16, torch.bits1x8, torch.bits2x4, torch.bits4x2],
        'empty': {'a': torch.ones(0, 3)},
        'memory': [[[]] * 3] * 3,
    }


class Settings:
    """An object of a class that only the training script has."""

    def __init__(self):
        self.lr = 0.1


class Level(enum.IntEnum):
    HIGH = 3


Point = collections.namedtuple('Point', 'x y')


def with_momentum():
    """An optimizer whose state is a dict with parameters as keys."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


def in_the_wild():
    """What training scripts save beside a state dict, and torch.load(weights_only=True) refuses."""
    return {
        'numpy': [np.float64(0.5), np.int64(3), np.arange(5), np.array(['a', 'b']), np.dtype('f4'), np.random.default_rng(0)],
        'args': argparse.Namespace(lr=0.1, path=pathlib.Path('a'), device=torch.device('cpu')),
        'paths': [pathlib.PurePosixPath('a'), pathlib.PureWindowsPath('b')],
        'dates': [
            datetime.datetime.now(datetime.UTC),
            datetime.date(2020, 1, 1),
            datetime.timedelta(3),
            zoneinfo.ZoneInfo('UTC'),
        ],
        'containers': [
            collections.defaultdict(list, a=[1]),
            collections.deque([1, 2]),
            types.SimpleNamespace(a=1),
            Point(1, 2),
        ],
        'other': [decimal.Decimal('1.5'), fractions.Fraction(1, 3), uuid.uuid4(), range(3), slice(1, 2), frozenset({1})],
        'standard': [
            http.HTTPStatus.OK,
            ipaddress.ip_address('::1'),
            ipaddress.ip_network('10.0.0.0/8'),
            re.compile('a'),
            random.Random(0),
            functools.partial(int, 3),
            collections.defaultdict(functools.partial(int, 3), a=1),
        ],
        'masked': np.ma.masked_array([1.0, 2.0], [True, False]),
        'own': [Settings(), Level.HIGH, {Settings(): 1}, -(2**3000)],
        'optimizer': with_momentum(),
        'scheduler': torch.optim.lr_scheduler.StepLR(with_momentum(), 3),
    }


@pytest.mark.filterwarnings('ignore:.*quantized tensor creation functions', 'ignore:TypedStorage is deprecated')
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_what_surrounds_the_tensors_is_skipped(protocol):
    model = torch.nn.Linear(3, 2)
    training = torch.optim.SGD(model.parameters(), 0.1)
    for more in (accepted(training), in_the_wild()):
        for name, value in more.items():
            data = torch_file({'before': value, 'net': model.state_dict(), 'after': [value]}, pickle_protocol=protocol)
            if protocol == 2 and 'schedulers' in more:
                torch.load(io.BytesIO(data), weights_only=True)  # the claim
            actual = read_torch(data, Path('some.pth'))
            np.testing.assert_array_equal(actual['net'].read('weight'), model.weight.detach().numpy(), name)


def test_tensors_with_attributes_are_tensors():
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.note = 'an attribute'
    assert list(read(torch_file({'a': tensor, 'b': torch.ones(1)}))) == ['a', 'b']


def test_big_endian_numbers():
    for storage, dtype in ((b'FloatStorage', '>f4'), (b'LongStorage', '>i8')):
        entries = {'byteorder': b'big', 'data/0': np.arange(3).astype(dtype).tobytes()}
        result = read(zip_file(tensor_program([3], [1], 3, storage=storage), entries))
        np.testing.assert_array_equal(result['a'], [0, 1, 2])
    entries = {'byteorder': b'big', 'data/0': b'\x3f\x80\x40\x00'}
    result = read(zip_file(tensor_program([2], [1], 2, storage=b'BFloat16Storage'), entries))
    np.testing.assert_array_equal(result['a'].astype(np.float32), [1, 2])


def test_torch_reads_what_we_write(tmp_path):
    tensors = {'a.weight': np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32).T, 'ü': np.array(5)}
    data = torch_bytes(tensors)
    assert data == torch_bytes(tensors)
    result = torch.load(io.BytesIO(data), weights_only=True)
    again = read(data)
    assert list(result) == list(again) == list(tensors)
    for name, array in tensors.items():
        assert result[name].is_contiguous()
        np.testing.assert_array_equal(result[name].numpy(), array)
        np.testing.assert_array_equal(again[name], array)
    (tmp_path / 'mapped.pth').write_bytes(data)
    torch.load(tmp_path / 'mapped.pth', weights_only=True, mmap=True)


@pytest.mark.parametrize('legacy', [False, True])
def test_truncated_files_are_refused(legacy):
    data = torch_file({'a': torch.randn(50), 'b': torch.randn(3, 2)}, legacy)
    for size in {*range(0, len(data) - 1, 37), len(data) - 1}:
        refusal(data[:size])


def test_changed_numbers_are_noticed_in_a_zip_file():
    data = bytearray(torch_file({'a': torch.full((1000,), 1.5)}))
    data[data.index(np.full(4, 1.5, np.float32).tobytes()) + 100] ^= 1
    assert 'damaged' in refusal(bytes(data))


def test_damage_anywhere_is_read_or_refused_and_never_another_error():
    random = np.random.default_rng(0)
    for legacy in (False, True):
        data = torch_file(some_tensors(), legacy)
        for _ in range(300):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                damaged[place] = random.integers(256)
            with contextlib.suppress(InputFileError):
                read(bytes(damaged))


FOUR_TIB = 2**40
CLAIMS = {
    'stride 0': tensor_program([FOUR_TIB], [0], 1),
    'stride 0 on an axis': tensor_program([FOUR_TIB, 4], [0, 1], 4),
    'a large storage': tensor_program([FOUR_TIB], [1], FOUR_TIB),
    'a view past the end': tensor_program([2], [3], 3),
    'an offset past the end': tensor_program([2], [1], 3, offset=2),
    'a product past 64 bits': tensor_program([2**32, 2**32], [1, 1], 4),
    'an empty tensor of great extent': tensor_program([0, 2**62], [1, 1], 4),
    'a negative stride': tensor_program([2], [-1], 4, offset=3),
    'a negative size': tensor_program([-2], [1], 4),
    'a negative offset': tensor_program([1], [1], 4, offset=-1),
    'many axes': tensor_program([1] * 60, [1] * 60, 4),
    'no such storage': tensor_program([1], [1], 1, key='9'),
    'a path as its storage': tensor_program([1], [1], 1, key='../../version'),
    'a type that NumPy lacks': tensor_program([1], [1], 1, storage=b'ComplexFloatStorage'),
}


@pytest.mark.parametrize('claim', CLAIMS)
def test_claims_beyond_the_bytes_that_are_there_are_refused(claim):
    refusal(zip_file(CLAIMS[claim], {'data/0': bytes(4)}))


@pytest.mark.parametrize('size', [1, FOUR_TIB, -1])
def test_claims_in_a_legacy_file_are_refused(size):
    data = torch_file({'a': torch.ones(3)}, legacy=True)
    length = (3).to_bytes(8, 'little')
    assert data.count(length) == 1
    refusal(data.replace(length, size.to_bytes(8, 'little', signed=True)))


def test_unusual_zip_archives_are_refused():
    program, numbers = tensor_program([3], [1], 3), {'data/0': bytes(12)}
    assert 'compressed' in refusal(zip_file(program, numbers, zipfile.ZIP_DEFLATED))
    assert '0 entries data.pkl' in refusal(zip_file(program, numbers).replace(b'data.pkl', b'data.pkk'))
    assert 'byte order' in refusal(zip_file(program, {**numbers, 'byteorder': b'odd'}))


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_overlapping_entries_are_refused():
    file = io.BytesIO(zip_file(tensor_program([3], [1], 3), {'data/0': bytes(12)}))
    with zipfile.ZipFile(file, 'a') as archive:  # a thousand entries of the directory, one place in the file
        archive.filelist.extend([archive.filelist[0]] * 1000)
        archive.writestr('model/more', b'')  # makes it write the directory
    assert 'overlap' in refusal(file.getvalue())


@pytest.mark.parametrize('value', [3, [1], {}, {'a': 1}, {'state_dict': {'epoch': 3}}, (torch.ones(2),)])
def test_files_without_a_state_dict_are_refused(value):
    assert 'no tensors by name' in refusal(torch_file(value))


@pytest.mark.parametrize(
    'data', [b'', b'\x80', b'PK', b'PK\x03\x04', b'hello', bytes(100), pickle.dumps({'a': 1}), b'\x80\x02.']
)
def test_other_files_are_refused(data):
    refusal(data)


def test_a_whole_pickled_module_is_refused_with_advice():
    message = refusal(torch_file(torch.nn.Linear(2, 2)))
    assert 'torch.nn.modules.linear.Linear' in message and 'model.state_dict()' in message


def test_a_legacy_file_is_refused_if_its_storages_do_not_agree():
    assert 'storages' in refusal(legacy_file(tensor_program([1], [1], 1)))
