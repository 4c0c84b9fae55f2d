import collections
import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import legacy_file, tensor_program, torch_file, zip_file

from resnet_jax.errors import InputFileError
from resnet_jax.weights.torch_file import WRAPPERS, read_torch, torch_bytes


def read(data):
    return read_torch(data, Path('some.pth'))


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


@pytest.mark.parametrize('key', WRAPPERS)
def test_it_finds_the_state_dict_of_a_training_checkpoint(key):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    saved = {'epoch': 3, 'best': 0.5, 'optimizer': optimizer.state_dict(), key: model.state_dict(), 'list': [1, (2, None)]}
    assert list(read(torch_file(saved))) == ['weight', 'bias']


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


@pytest.mark.parametrize(
    'value', [3, [1], {}, {'a': 1}, {'state_dict': {'epoch': 3}}, {'weights': {'a': torch.ones(1)}}, (torch.ones(2),)]
)
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
