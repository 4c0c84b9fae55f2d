import ctypes
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.errors import ResourceError
from resnet_jax.runtime import memory
from resnet_jax.training.state import TrainState


def compiled(temp_size):
    return types.SimpleNamespace(memory_analysis=lambda: types.SimpleNamespace(temp_size_in_bytes=temp_size))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB available, whose /proc and /sys the test may write."""
    monkeypatch.setattr(memory, 'Path', lambda path: tmp_path / str(path).lstrip('/'))
    (tmp_path / 'proc').mkdir()
    (tmp_path / 'proc/meminfo').write_text(f'MemTotal: {16 << 20} kB\nMemAvailable:   {8 << 20} kB\nHugePages_Total: 0\n')
    (tmp_path / 'sys/fs/cgroup').mkdir(parents=True)
    return tmp_path


def limit(machine, maximum, current, cached):
    group = machine / 'sys/fs/cgroup'
    (group / 'memory.max').write_text(f'{maximum}\n')
    (group / 'memory.current').write_text(f'{current}\n')
    (group / 'memory.stat').write_text(f'anon {current - cached}\nfile {cached}\ninactive_file {cached}\nactive_file 0\n')


def test_parameters_gradients_and_the_state_of_the_optimizer_must_fit(monkeypatch):
    shape = jax.ShapeDtypeStruct
    state = TrainState(shape((), jnp.int32), {'k': shape((100,), jnp.float32)}, {}, shape((50,), jnp.bfloat16), {})
    monkeypatch.setattr(memory, 'available_bytes', lambda: 904)
    assert memory.check_state_fits(state, 'net') == {'state_bytes': 504, 'gradient_bytes': 400, 'available_bytes': 904}
    monkeypatch.setattr(memory, 'available_bytes', lambda: None)
    assert memory.check_state_fits(state, 'net')['available_bytes'] is None
    monkeypatch.setattr(memory, 'available_bytes', lambda: 903)
    with pytest.raises(ResourceError, match=r'the parameters of net, their gradients .* use a smaller network'):
        memory.check_state_fits(state, 'net')


def test_available_memory_of_a_real_machine():
    assert memory.available_bytes() > 2**20 or not Path('/proc/meminfo').exists()


def test_available_memory_of_the_machine(machine):
    assert memory.available_bytes() == 8 << 30


def test_a_container_has_what_its_limit_leaves(machine):
    limit(machine, 4 << 30, 1 << 30, 0)
    assert memory.available_bytes() == 3 << 30


def test_a_container_without_a_limit(machine):
    limit(machine, 'max', 1 << 30, 0)
    assert memory.available_bytes() == 8 << 30


def test_cached_files_are_not_in_the_way(machine):
    """A container's usage counts the files that it has read, which the system gives up when it needs the room."""
    limit(machine, 4 << 30, (4 << 30) - 4096, 3 << 30)
    assert memory.available_bytes() == (3 << 30) + 4096


def test_nobody_says(machine):
    (machine / 'proc/meminfo').unlink()
    assert memory.available_bytes() is None
    memory.check_fits(compiled(2**60), 128, 1)


def test_what_fits(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 4000)
    memory.check_fits(compiled(1000), 128, 4)  # four devices of this machine's memory need 4000


def test_what_does_not_fit_names_a_batch_size_that_does(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 3 << 30)
    with pytest.raises(ResourceError) as info:
        memory.check_fits(compiled(2 << 30), 128, 8)  # of 8 GiB: 3/8 of 128, less a tenth, in multiples of 8
    message = str(info.value)
    assert message.startswith('out of device memory at batch_size 128 (about 8.0 GiB needed, 3.0 GiB free); ')
    assert 'batch_size=40 should fit' in message
    assert 'gradient_accumulation_steps=2' in message and 'dtype=bfloat16' in message


def test_no_batch_size_is_named_if_none_would_fit(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 1)
    with pytest.raises(ResourceError) as info:
        memory.check_fits(compiled(2 << 30), 128, 8)
    assert 'should fit' not in str(info.value) and 'gradient_accumulation_steps' in str(info.value)


def test_a_real_compiled_function_is_understood(monkeypatch):
    program = jax.jit(lambda x: x @ x @ x).lower(jnp.zeros((256, 256))).compile()
    memory.check_fits(program, 128, 4)
    monkeypatch.setattr(memory, 'available_bytes', lambda: 1000)
    with pytest.raises(ResourceError, match='out of device memory'):
        memory.check_fits(program, 128, 4)


def test_what_is_not_compiled_ahead_of_time_is_not_judged(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 0)
    memory.check_fits(lambda: None, 128, 1)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'malloc_trim'), reason='needs glibc')
def test_freed_memory_is_given_back():
    code = """
import ctypes, re
from pathlib import Path
from resnet_jax.runtime.memory import return_free_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    return int(re.search(r'VmRSS:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024
blocks = [libc.malloc(2000) for _ in range(100_000)]
for block in blocks:
    ctypes.memset(block, 1, 2000)
for block in blocks[:-1]:
    libc.free(block)
before = resident()
return_free_memory()
print(before - resident())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) > 100  # MiB; the block at the end of the heap kept them
