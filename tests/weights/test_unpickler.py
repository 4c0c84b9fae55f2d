"""Hostile pickles: none of them runs anything, takes long or takes memory. A canary file shows whether one ran."""

import functools
import io
import os
import pickle
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import legacy_file, torch_file, zip_file

from resnet_jax.errors import InputFileError
from resnet_jax.runtime.pickle_machine import RefusedError
from resnet_jax.weights.torch_file import read_torch
from resnet_jax.weights.unpickler import Unpickler


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def text(value):
    return b'X' + len(value).to_bytes(4, 'little') + value.encode()


def gadgets(canary):
    """Pickles that create the file `canary` in Python's or torch's own unpickler, by name."""
    shell, python = f'touch {canary}', f'open({str(canary)!r}, "w").close()'
    objects = {
        'os.system': Calls(os.system, shell),
        'eval': Calls(eval, python),
        'exec': Calls(exec, python),
        'open': Calls(open, str(canary), 'w'),
        'functools.partial': Calls(functools.partial(os.system, shell)),
        'torch.load': Calls(torch.load, io.BytesIO(b''), None),
        'numpy': Calls(np.fromfile, '/dev/zero', np.float32, 4),
        'numpy object array': np.array([Calls(os.system, shell)], dtype=object),
        'numpy scalar': np.float64(1.5),
        'in a state dict': {'state_dict': {'a': torch.ones(2), 'b': Calls(os.system, shell)}},
        'as a key': {Calls(os.system, shell): torch.ones(2)},
        'in hooks': {'a': Calls(torch._utils._rebuild_tensor_v2, None, 0, (), (), False, Calls(os.system, shell))},
    }
    programs = {name: pickle.dumps(value, 2) for name, value in objects.items()}
    programs |= {
        'protocol 0': pickle.dumps(Calls(os.system, shell), 0),
        'stack global': pickle.dumps(Calls(os.system, shell), 4),
        'getattr': b'c__builtin__\ngetattr\ncpathlib\nPath\n' + text(str(canary)) + b'\x85R' + text('touch') + b'\x86R)R.',
        'inst': b'(' + text(shell) + b'ios\nsystem\n.',
        'obj': b'(cos\nsystem\n' + text(shell) + b'o.',
        'newobj': b'cos\nsystem\n' + text(shell) + b'\x85\x81.',
        'newobj_ex': b'cos\nsystem\n' + text(shell) + b'\x85}\x92.',
        'extension': b'\x82\x01' + text(shell) + b'\x85R.',
        'global by memo': b'cos\nsystem\nq\x00h\x00' + text(shell) + b'\x85R.',
        'a name with dots': b'ccollections\nOrderedDict.__init__.__globals__\n.',
        'a module with dots': b'ctorch._utils\n_rebuild_tensor_v2.__globals__\n.',
        'an attribute of torch': b'ctorch.serialization\nos.system\n' + text(shell) + b'\x85R.',
        'build a state': b'ccollections\nOrderedDict\n' + b'}(' + text('__class__') + text('x') + b'ub.',
        'build a dict': b'}}(' + text('a') + b'K\x01ub.',
        'call a storage type': b'ctorch\nFloatStorage\nK\x04\x85R.',
        'call a string': text('os.system') + text(shell) + b'\x85R.',
        'OrderedDict of a call': b'ccollections\nOrderedDict\ncos\nsystem\n\x85R.',
        'global of a tuple': b')' + text('system') + b'\x93.',
    }
    return programs


NAMES = list(gadgets(Path('unused')))


def test_the_gadgets_would_work(tmp_path):
    """Or they would prove nothing: Python's own unpickler runs them."""
    for name in (
        'os.system',
        'eval',
        'getattr',
        'functools.partial',
        'numpy object array',
        'inst',
        'obj',
        'global by memo',
        'protocol 0',
    ):
        canary = tmp_path / name.replace(' ', '-')
        pickle.loads(gadgets(canary)[name])
        assert canary.exists(), name


@pytest.mark.parametrize('wrap', [zip_file, legacy_file], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', NAMES)
def test_gadgets_are_refused_in_one_line_and_run_nothing(name, wrap, tmp_path):
    canary = tmp_path / 'canary'
    modules = set(sys.modules)
    with pytest.raises(InputFileError) as info:
        read_torch(wrap(gadgets(canary)[name]), Path('some.pth'))
    assert not canary.exists()
    assert str(info.value).isprintable()
    assert {name for name in set(sys.modules) - modules if not name.startswith('encodings.')} == set()  # zipfile's own


def test_a_gadget_beside_real_tensors_is_refused(tmp_path):
    canary = tmp_path / 'canary'
    for legacy in (False, True):
        data = torch_file({'state_dict': {'a': torch.ones(2)}, 'extra': Calls(os.system, f'touch {canary}')}, legacy)
        with pytest.raises(InputFileError, match=r"asks for 'posix.system', which was not run"):
            read_torch(data, Path('some.pth'))
    assert not canary.exists()


def test_escape_sequences_do_not_reach_the_terminal():
    with pytest.raises(InputFileError) as info:
        read_torch(zip_file(b'c\x1b[2Jos\nsys\x1btem\n.'), Path('some.pth'))
    assert str(info.value).isprintable()


def load(program):
    return Unpickler(program).load()


def nested_tuples(depth):
    """t = (t, t), often: 2 ** depth elements to whoever walks them."""
    return b')q\x00' + b'h\x00h\x00\x86q\x00' * depth


def nested_lists(depth):
    """Two lists that contain each other twice: 2 ** depth elements to whoever prints them."""
    return b']q\x00' + b'](h\x00h\x00eq\x00' * depth


PAIRS = b'](' + b']X\x01\x00\x00\x00aaNa' * 60_000 + b'e\x85q\x00'
BOMBS = {
    'a module of nested lists': nested_lists(60) + text('a') + b'\x93.',
    'a name of nested lists': text('os') + nested_lists(60) + b'\x93.',
    'a key of nested lists': b'}' + nested_lists(60) + b'Ns.',
    'a storage of nested lists': nested_lists(60) + b'Q.',
    'many copies of one list': PAIRS + b'0' + b'ccollections\nOrderedDict\nh\x00R' * 3000 + b'.',
    'copies by way of another call': PAIRS
    + b'0'
    + b'ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nNh\x00NtR' * 3000
    + b'.',
    'a long name of torch': text('torch') + text('int' * 60_000 + '!') + b'\x93.',
    'a class of nested lists': nested_lists(60) + b')\x81.',
    'a memo index of 4 billion': b'Nr\xff\xff\xff\xff.',
    'the hash of nested tuples': b'}' + nested_tuples(60) + b'Ns.',
    'nested tuples': nested_tuples(5000) + b'.',
    'nested lists': b']' * 100_000 + b'a' * 99_999 + b'.',
    'a list in itself': b']q\x00h\x00a.',
    'a string of 4 GB': b'X\xff\xff\xff\xffabc',
    'a frame of 2^64': b'\x95' + b'\xff' * 8 + b'N.',
    'marks only': b'(' * 100_000,
    'an unmarked tuple': b't.',
    'pops of nothing': b'000.',
    'an unset memo': b'h\x05.',
    'no end': b'N',
    'nothing': b'.',
    'bad utf-8': b'X\x02\x00\x00\x00\xff\xfe.',
    'odd items': b'}(Nu.',
    'a list as a key': b'}]Ns.',
    'items of a list': b']NNs.',
    'append to a dict': b'}Na.',
    'append to a tensor': b'NNa.',
    'an endless global': b'c' + b'a' * 1_000_000,
    'a huge number': b'\x8a\xff' + b'\x7f' * 255 + b'.',
}


@pytest.mark.parametrize('name', BOMBS)
def test_bombs_take_neither_time_nor_memory(name):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(BOMBS[name])
    except RefusedError as error:
        assert str(error).isprintable()
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_containers_and_scalars():
    value = {'a': [1, -1, 2**40, True, None, 1.5, 'ü'], 'b': (), 'c': ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), 7: {'d': {}}}
    for protocol in (2, 3, 4, 5):
        assert load(pickle.dumps(value, protocol)) == value
