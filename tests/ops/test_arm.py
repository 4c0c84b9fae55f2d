"""The kernels compiled for 64-bit ARM (NEON), run by an emulator and compared with XLA's own convolutions."""

import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import kernels
from resnet_jax.ops.kernels import build

COMPILER, EMULATOR = 'aarch64-linux-gnu-gcc', 'qemu-aarch64'
LANES = 4
SHAPES = {  # size, channels in and out, kernel, stride, padding
    'stem': ((9, 8), 3, 8, 3, 1, ((1, 1), (1, 1))),
    'stage': ((8, 8), 16, 16, 3, 1, ((1, 1), (1, 1))),
    'downsampling': ((8, 9), 8, 12, 3, 2, ((1, 1), (1, 1))),
    'shortcut': ((8, 8), 8, 16, 1, 2, ((0, 0), (0, 0))),
    'imagenet stem': ((21, 19), 3, 8, 7, 2, ((3, 3), (3, 3))),
    'odd rows of a block': ((5, 11), 20, 28, 3, 1, ((0, 1), (2, 0))),
    'slices of a part': ((4, 4), 8, 96, 3, 1, ((1, 1), (1, 1))),
}


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    for name in (COMPILER, EMULATOR):
        if not shutil.which(name):
            pytest.skip(f'needs {name}: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user')
    made, folder = tmp_path_factory.mktemp('arm') / 'call_kernel', Path(build.__file__).parent
    sources = [Path(__file__).parent / 'call_kernel.c', *sorted(folder.glob('*.c'))]
    flags = [flag for flag in build._FLAGS if flag not in ('-shared', '-fvisibility=hidden')]
    command = [
        COMPILER,
        *flags,
        '-static',
        '-Wall',
        '-Werror',
        '-Wno-unused-function',
        f'-I{folder}',
        f'-I{jax.ffi.include_dir()}',
    ]
    subprocess.run([*command, *sources, '-o', made], check=True, timeout=120)
    return made


@pytest.fixture(autouse=True)
def _emulated(program, tmp_path, monkeypatch):
    def call(name, shapes, *arguments, geometry):
        arrays = [np.asarray(a, np.float32) for a in arguments]
        numbers = [len(arrays), len(shapes), len(geometry), *geometry]
        numbers += [n for shape in [*(a.shape for a in arrays), *shapes] for n in (len(shape), *shape)]
        file = tmp_path / 'call'
        file.write_bytes(np.asarray(numbers, np.int64).tobytes() + b''.join(a.tobytes() for a in arrays))
        done = subprocess.run([EMULATOR, program, name, file], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return np.frombuffer(done.stdout, np.float32).reshape(shapes[0])

    monkeypatch.setattr(kernels, '_call', call)
    monkeypatch.setattr(kernels, 'lanes', lambda: LANES)


def arrays(shape):
    size, inputs, outputs, kernel, stride, padding = SHAPES[shape]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *size, inputs)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(kernel, kernel, inputs, outputs)), jnp.float32)

    def conv(x, weights):
        numbers = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(x, weights, (stride, stride), padding, dimension_numbers=numbers)

    y, gradients = jax.vjp(conv, x, weights)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    return x, weights, g, stride, padding, y, *gradients(g)


def assert_close(actual, expected, tolerance=1e-5):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize('shape', SHAPES)
def test_direct_convolutions(shape):
    x, weights, g, stride, padding, y, dx, dweights = arrays(shape)
    assert_close(kernels.conv(x, weights, stride, padding), y)
    assert_close(kernels.kernel_gradient(g, x, weights.shape[:2], stride, padding), dweights)
    if x.shape[3] % LANES == 0:
        assert_close(kernels.input_gradient(g, weights, x.shape[1:3], stride, padding), dx)


@pytest.mark.parametrize('shape', ['stage', 'odd rows of a block', 'slices of a part'])
def test_winograds_form(shape):
    x, weights, g, _, padding, y, _, dweights = arrays(shape)
    # The kernel's transform: Lavin and Gray, arXiv:1509.09308, section 4.3.
    six = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float64) / 24
    transformed = np.einsum('ai,bj,ijxy->abxy', six, six, weights).reshape(36, *weights.shape[2:])
    assert_close(kernels.winograd(x, jnp.asarray(transformed, jnp.float32), padding), y, 1e-4)
    assert_close(kernels.winograd_kernel_gradient(g, x, padding), dweights, 1e-4)
