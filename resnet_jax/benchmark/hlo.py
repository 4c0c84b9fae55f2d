"""Reads programs compiled by XLA, mostly for a GPU: kernels, bytes, multiply-adds and host launches of one training step.

The number of bytes is the least that a kernel must read and write: each operand, or the slice of it that the kernel uses, once.
The time is a lower bound: the time of the memory for these bytes, or of the tensor cores for these operations.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_SIZES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f64': 8, 's64': 8, 'u64': 8}
_ARRAY = re.compile(r'\b(pred|bf16|[suf]\d+)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'^(ENTRY )?%(\S+) \(.*\{$')
_INSTRUCTION = re.compile(r'^ +(?:(ROOT) )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*?)\)(.*)$')
_CALLED = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%([\w.-]+)')
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'opt-barrier', 'partition-id'}
SMALL = 2**20  # bytes; a kernel that moves fewer bytes takes as long as its launch


@dataclasses.dataclass(frozen=True)
class Device:
    """Peak rates of a GPU: bytes of the memory, and operations of the tensor cores in bfloat16 without sparsity."""

    bytes_per_second: float
    flops_per_second: float


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a step.

    Attributes:
      name, kind: XLA's name; 'convolution', 'product' or 'other'.
      source: the operations of the program from which the kernel was made, by JAX's names.
      result: shape of the result.
      read, written: number of bytes.
      flops: floating-point operations of convolutions and products.
      share: share of the steps that launch the kernel; below 1 in a branch.
    """

    name: str
    kind: str
    source: str
    result: str
    read: int
    written: int
    flops: int
    share: float

    def seconds(self, device: Device) -> float:
        """Returns a lower bound of its time per step."""
        return self.share * max((self.read + self.written) / device.bytes_per_second, self.flops / device.flops_per_second)

    @property
    def group(self) -> str:
        """The part of the step to which it belongs."""
        if self.kind != 'other':
            return f'{self.kind}s'
        if self.read + self.written < SMALL:
            return 'small kernels'
        if 'transpose(' in self.source:
            return 'backward'
        return 'forward' if 'jvp(' in self.source else 'optimizer, data'


@dataclasses.dataclass(frozen=True)
class _Instruction:
    root: bool
    name: str
    shape: str
    operation: str
    operands: Sequence[str]
    attributes: str

    def called(self) -> list[str]:
        branches = re.search(r'branch_computations=\{([^}]*)\}', self.attributes)
        return re.findall(r'%([\w.-]+)', branches[1]) if branches else _CALLED.findall(self.attributes)


_Computation = Mapping[str, _Instruction]


def step_kernels(text: str, branch_share: float = 1.0) -> list[Kernel]:
    """Returns the kernels of the largest loop of a program; an iteration of the loop is a step.

    Args:
      text: the program, optimised HLO.
      branch_share: share of the steps that take the larger side of a branch; the others take the smaller side.
    """
    computations, entry = _parse(text)
    bodies = _loop_bodies(computations, entry)
    return list(_kernels(computations, max(bodies, key=lambda name: len(computations[name])), branch_share, 1.0))


def slow_operations(text: str) -> dict[str, int]:
    """Counts slow or inexact operations of a program.

    These are convolutions in float32; scatters; sums in bfloat16, which lose small summands; and transposes of activations of
    1 MiB or more in bfloat16.
    """
    computations, _ = _parse(text)
    counts = dict.fromkeys(('float32 convolutions', 'scatters', 'bfloat16 sums', 'activation transposes'), 0)
    for computation in computations.values():
        for instruction in computation.values():
            operation, dtypes = instruction.operation, [dtype for dtype, _ in _arrays(instruction.shape)]
            if operation == 'custom-call' and '__cudnn$conv' in instruction.attributes:
                counts['float32 convolutions'] += 'f32' in dtypes
            elif operation in ('scatter', 'select-and-scatter'):
                counts['scatters'] += 1
            elif operation == 'reduce' and 'bf16' in dtypes:
                reducer = computations[instruction.called()[0]].values()
                counts['bfloat16 sums'] += any(inner.operation == 'add' for inner in reducer)
            elif operation == 'transpose' and dtypes == ['bf16'] and _bytes(instruction.shape) >= SMALL:
                counts['activation transposes'] += 1
    return counts


def host_launches(thunks: str) -> int:
    """Returns the number of host launches in a step: kernels, graphs of kernels, and waits for a condition.

    Args:
      thunks: XLA's list of the host's actions, written with `xla_dump_to`; the actions of a command buffer (a CUDA graph)
        are indented below it.
    """
    loop, graph, count = None, None, 0
    for line in thunks.splitlines():
        matched = re.match(r'^( *)\d+: k(\w+)', line)
        if not matched:
            continue
        depth = len(matched[1])
        if graph is not None and depth > graph:
            continue
        graph = depth if matched[2] == 'CommandBuffer' else None
        if loop is not None and depth <= loop:
            break
        if loop is not None:
            count += 1
        elif matched[2] == 'While':
            loop, count = depth, 1  # the condition's result is copied to the host
    return count


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, dict[str, _Instruction]] = {}
    current: dict[str, _Instruction] = {}
    entry = ''
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            current = computations[begins[2]] = {}
            entry = begins[2] if begins[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            root, name, shape, operation, operands, attributes = instruction.groups()
            inputs = re.findall(r'%([\w.-]+)', operands) or [operands]
            current[name] = _Instruction(bool(root), name, shape, operation, inputs, attributes)
    return dict(computations), entry


def _loop_bodies(computations: Mapping[str, _Computation], name: str) -> list[str]:
    bodies = []
    for instruction in computations[name].values():
        if instruction.operation == 'while':
            bodies += instruction.called()
        elif instruction.operation == 'call':
            bodies += [body for callee in instruction.called() for body in _loop_bodies(computations, callee)]
    return bodies


def _kernels(computations: Mapping[str, _Computation], name: str, branch_share: float, share: float) -> Iterator[Kernel]:
    computation = computations[name]
    for instruction in computation.values():
        operation, inside = instruction.operation, instruction.called()
        if operation == 'conditional':
            *smaller, larger = sorted(inside, key=lambda branch: len(computations[branch]))
            yield from _kernels(computations, larger, branch_share, share * branch_share)
            for branch in smaller if branch_share < 1 else ():
                yield from _kernels(computations, branch, branch_share, share * (1 - branch_share))
        elif operation in ('while', 'call', 'async-start'):
            for callee in inside:
                yield from _kernels(computations, callee, branch_share, share)
        elif operation not in _FREE and not operation.endswith('-done'):
            yield _kernel(computations, computation, instruction, share)


def _kernel(
    computations: Mapping[str, _Computation], computation: _Computation, instruction: _Instruction, share: float
) -> Kernel:
    shapes = [computation[name].shape if name in computation else '' for name in instruction.operands]
    read, written = sum(map(_bytes, shapes)), _bytes(instruction.shape)
    kind, flops = 'other', 0
    if instruction.operation == 'fusion':
        fused = computations[instruction.called()[0]]
        read, written = _bytes_read(fused), _bytes_written(fused)
        flops = sum(_product_flops(fused, inner) for inner in fused.values() if inner.operation == 'dot')
    elif target := re.search(r'custom_call_target="__cudnn\$conv(\w+)"', instruction.attributes):
        flops = _convolution_flops(target[1], instruction.shape, *shapes[:2])
        kind = 'convolution'
    elif instruction.operation == 'dynamic-update-slice':
        read = written = _bytes(shapes[1])
    elif instruction.operation == 'dynamic-slice':
        read = written
    kind = 'product' if flops and kind == 'other' else kind
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Kernel(instruction.name, kind, source[1] if source else '', instruction.shape, read, written, flops, share)


def _arrays(shape: str) -> list[tuple[str, list[int]]]:
    return [(dtype, [int(size) for size in sizes.split(',') if size]) for dtype, sizes in _ARRAY.findall(shape)]


def _bytes(shape: str) -> int:
    return sum(_SIZES.get(dtype, 4) * math.prod(sizes) for dtype, sizes in _arrays(shape))


def _bytes_read(fused: _Computation) -> int:
    users = collections.defaultdict(list)
    for instruction in fused.values():
        for operand in instruction.operands:
            users[operand].append(instruction)

    def reads(value: _Instruction, whole: int) -> int:
        total = 0
        for user in users[value.name]:
            sliced = user.operands[0] == value.name
            if user.operation == 'bitcast':
                total += reads(user, whole)
            elif user.operation in ('slice', 'dynamic-slice', 'gather') and sliced:
                total += _bytes(user.shape)
            elif user.operation != 'dynamic-update-slice' or not sliced:  # in place: the unchanged part is not read
                return whole
        return min(total, whole)

    parameters = (value for value in fused.values() if value.operation == 'parameter')
    return sum(reads(value, _bytes(value.shape)) for value in parameters)


def _bytes_written(fused: _Computation) -> int:
    def of(value: _Instruction) -> int:
        while value.operation == 'bitcast':
            value = fused[value.operands[0]]
        return _bytes(fused[value.operands[1]].shape if value.operation == 'dynamic-update-slice' else value.shape)

    root = next(value for value in fused.values() if value.root)
    return sum(of(fused[name]) for name in root.operands) if root.operation == 'tuple' else of(root)


def _product_flops(fused: _Computation, dot: _Instruction) -> int:
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', dot.attributes)
    sizes = _arrays(fused[dot.operands[0]].shape)[0][1]
    depth = math.prod(sizes[int(axis)] for axis in contracted[1].split(',') if axis) if contracted else 1
    return 2 * depth * math.prod(_arrays(dot.shape)[0][1])


def _convolution_flops(target: str, *shapes: str) -> int:
    """Returns twice the multiply-adds, which are output pixels times elements of the kernel `[out, height, width, in]`."""
    result, first, second = (_arrays(shape)[0][1] for shape in shapes)
    if 'Filter' in target:
        kernel, image = result, second
    elif 'Input' in target:
        kernel, image = second, first
    else:
        kernel, image = second, result
    return 2 * math.prod(kernel) * math.prod(image[:3])
