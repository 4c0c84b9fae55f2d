"""What XLA compiles for an H100 without one: ceilings on what a step of ResNet-8 does, and what its program must not have."""

import importlib.util
import json
import sys

import pytest
from commands_support import run

from resnet_jax.benchmark.hlo import Device, host_launches, slow_operations, step_kernels

TINY = '--config=configs/resnet20.py', '--config.model=resnet8', '--config.dtype=bfloat16', '--config.batch_size=512'
WHEELS = importlib.util.find_spec('jax_plugins') and importlib.util.find_spec('jax_plugins.xla_cuda12')
PROGRAM = """
%fused (p: bf16[4,8,8,16], q: bf16[16]) -> bf16[2,8,8,16] {
  %p = bf16[4,8,8,16]{3,2,1,0} parameter(0)
  %q = bf16[16]{0} parameter(1)
  %s = bf16[2,8,8,16]{3,2,1,0} slice(%p), slice={[0:2], [0:8], [0:8], [0:16]}
  ROOT %b = bf16[2,8,8,16]{3,2,1,0} broadcast(%q), dimensions={3}
}

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b.1 = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b.1)
}

%body (t: (s32[], bf16[4,8,8,16])) -> (s32[], bf16[4,8,8,16]) {
  %t = (s32[], bf16[4,8,8,16]{3,2,1,0}) parameter(0)
  %x = bf16[4,8,8,16]{3,2,1,0} get-tuple-element(%t), index=1
  %k = bf16[32,3,3,16]{3,2,1,0} constant({...})
  %conv = (bf16[4,8,8,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward"
  %v = bf16[16]{0} reduce(%x, %k), dimensions={0,1,2}, to_apply=%add
  %f = bf16[2,8,8,16]{3,2,1,0} fusion(%x, %v), kind=kLoop, calls=%fused, metadata={op_name="transpose(jvp(x))/mul"}
  ROOT %r = (s32[], bf16[4,8,8,16]{3,2,1,0}) tuple(%t, %x)
}

ENTRY %main (t.1: (s32[], bf16[4,8,8,16])) -> (s32[], bf16[4,8,8,16]) {
  %t.1 = (s32[], bf16[4,8,8,16]{3,2,1,0}) parameter(0)
  ROOT %w = (s32[], bf16[4,8,8,16]{3,2,1,0}) while(%t.1), condition=%add, body=%body
}
"""


def test_a_program_counted_by_hand():
    convolution, reduction, fusion = step_kernels(PROGRAM)
    x, pixels = 4 * 8 * 8 * 16 * 2, 4 * 8 * 8
    assert (convolution.kind, convolution.read, convolution.written) == ('convolution', x + 32 * 9 * 16 * 2, 2 * x)
    assert convolution.flops == 2 * pixels * 32 * 9 * 16 and reduction.flops == 0
    assert (fusion.read, fusion.written, fusion.group) == (x // 2 + 32, x // 2, 'small kernels')  # it reads a half of x
    assert fusion.seconds(Device(100.0, 1e9)) == pytest.approx((x + 32) / 100)
    assert convolution.seconds(Device(1e20, 1e6)) == pytest.approx(convolution.flops / 1e6)
    assert slow_operations(PROGRAM)['bfloat16 sums'] == 1 and sum(slow_operations(PROGRAM).values()) == 1


def test_launches_are_what_is_outside_of_graphs():
    inside = '000: kCommandBuffer\n    001: kWhile\ncondition:\n    002: kCustomKernel a\n'
    assert host_launches(inside) == 0
    loop = ['000: kCopy', '001: kWhile', 'condition:', '    002: kCustomKernel a', '  body:', '    003: kCommandBuffer']
    loop += ['        004: kCopy', '    005: kConvolution', '006: kCopy']
    assert host_launches('\n'.join(loop)) == 4  # the condition, the copy of its result, the graph, the convolution


@pytest.mark.skipif(WHEELS is not None, reason='the wheels are here')
def test_without_the_wheels_the_command_says_what_to_install():
    done = run('benchmark.py', *TINY, '--aot=h100', code=2)
    assert 'jax-cuda12-plugin' in done.stderr


@pytest.mark.skipif(not WHEELS, reason="XLA's compiler for CUDA is not installed: pip install -e '.[aot]' (480 MB)")
def test_ceilings_of_resnet8(tmp_path):
    path = tmp_path / 'counts.json'
    out = run('benchmark.py', *TINY, '--aot=h100', f'--json={path}', timeout=600, new_process=True).stdout
    counts = json.loads(path.read_text())
    assert 'floor ms' in out and counts['gpu'] == 'h100' and sys.platform == 'linux'
    assert counts['slow_operations'] == dict.fromkeys(counts['slow_operations'], 0)
    assert counts['groups']['convolutions']['kernels'] == 20  # 7 kernels: output, two gradients, not that for the images
    assert counts['host_launches'] == 0
    # As jax 0.10.2 compiles it: 131 kernels, 1.20 GB, 0.36 ms, 150 MiB.
    assert counts['kernels'] <= 137
    assert counts['bytes_read'] + counts['bytes_written'] <= 1.25e9
    assert counts['floor_seconds'] <= 0.37e-3
    assert counts['temporary_bytes'] <= 165 * 2**20
