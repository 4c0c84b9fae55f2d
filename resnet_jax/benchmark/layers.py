"""Times single convolutions, as in a training step: ours, XLA's and PyTorch's, interleaved."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from resnet_jax.benchmark.measure import Effort
from resnet_jax.benchmark.worker import Worker
from resnet_jax.errors import ConfigError
from resnet_jax.typing import Row

PARTS = {'output': 'output', 'input_gradient': "input's gradient", 'kernel_gradient': "kernel's gradient"}
_SIDES = ('ours', 'XLA', 'PyTorch')


@dataclasses.dataclass(frozen=True)
class Shape:
    """A square convolution; for kernels of odd size, the padding keeps the size of the image, apart from the stride."""

    height: int
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1

    @property
    def padding(self) -> int:
        """Number of pixels added on each side."""
        return (self.kernel - 1) // 2

    def __str__(self) -> str:
        return 'x'.join(map(str, dataclasses.astuple(self)))


# The convolutions of ResNet-18 and of smaller networks, first without stride, then with.
SHAPES = (
    *(Shape(32, 64, 64), Shape(16, 128, 128), Shape(8, 256, 256), Shape(4, 512, 512)),
    *(Shape(32, 16, 16), Shape(16, 32, 32), Shape(8, 64, 64), Shape(8, 64, 192), Shape(2, 256, 256), Shape(1, 512, 512)),
    *(Shape(32, 64, 128, 3, 2), Shape(32, 64, 128, 1, 2), Shape(32, 3, 64)),
)


def parse_shapes(texts: Sequence[str]) -> list[Shape]:
    """Returns the shapes for texts such as '32x64x64' or '32x64x128x3x2'; `SHAPES` for 'all'.

    Raises:
      ConfigError: a text is not a shape.
    """
    shapes: list[Shape] = []
    for text in texts:
        if text == 'all':
            shapes += SHAPES
            continue
        try:
            shape = Shape(*(int(size) for size in text.split('x')))
            if min(dataclasses.astuple(shape)) < 1 or shape.height + 2 * shape.padding < shape.kernel:
                raise ValueError
        except (ValueError, TypeError):
            raise ConfigError(
                f'{text!r} is not the shape of a convolution; expected HEIGHTxINxOUT[xKERNEL[xSTRIDE]], as 8x64x64x3x2'
            ) from None
        shapes.append(shape)
    return shapes


def measure_layers(
    shapes: Sequence[Shape], batch_size: int, dtype: str, effort: Effort, progress: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Measures the output and both gradients of each shape.

    Returns:
      A row for each shape: its fields, 'batch_size' and 'dtype', and for each of `PARTS` the milliseconds
      {'ours', 'XLA', 'PyTorch': [one per round]} and PyTorch's faster 'layout'.
    """
    rows = []
    with Worker('layers', {}) as jax, Worker('torch_layers', {}) as torch:
        for shape in shapes:
            row: Row = {**dataclasses.asdict(shape), 'batch_size': batch_size, 'dtype': dtype}
            given = {**dataclasses.asdict(shape), 'padding': shape.padding, 'batch_size': batch_size, 'dtype': dtype}

            def timer(worker: Worker, part: str, form: str, given: Row = given) -> Callable[[], float]:
                """Returns a function that measures the milliseconds of one execution."""
                call: Row = {**given, 'part': part, 'form': form}
                steps, seconds = 1, worker('run', steps=1, **call)  # compiles
                while (seconds := worker('run', steps=steps, **call)) < effort.seconds / 2 and steps < 10_000:
                    steps = max(steps + 1, int(steps * min(100, effort.seconds / max(seconds, 1e-6))))
                return lambda: 1000 * worker('run', steps=steps, **call) / steps

            for part, title in PARTS.items():
                layouts = {layout: timer(torch, part, layout) for layout in ('contiguous', 'channels_last')}
                layout = min(layouts, key=lambda layout: layouts[layout]())
                timers = {'ours': timer(jax, part, 'ours'), 'XLA': timer(jax, part, 'XLA'), 'PyTorch': layouts[layout]}
                times: dict[str, list[float]] = {side: [] for side in _SIDES}
                for _ in range(effort.rounds):
                    for side in _SIDES:
                        time.sleep(0.05)  # lets the other side's threads go to sleep
                        times[side].append(timers[side]())
                row[part] = {**times, 'layout': layout}
                text = ', '.join(f'{side} {statistics.median(times[side]):.3g}' for side in _SIDES)
                progress(f'{shape} {title}: {text} ms ({layout})')
            jax('forget')
            rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Returns the medians in milliseconds as a Markdown table: ours / XLA's / PyTorch's."""
    lines = [
        f'Milliseconds, ours / XLA / PyTorch (its better layout); batch {rows[0]["batch_size"]}, {rows[0]["dtype"]}, '
        f'medians of {len(rows[0]["output"]["ours"])}',
        '',
        '| height, in, out, kernel, stride | ' + ' | '.join(PARTS.values()) + ' |',
        '|---|' + '---|' * len(PARTS),
    ]
    for row in rows:
        cells = [' / '.join(f'{statistics.median(row[part][side]):.3g}' for side in _SIDES) for part in PARTS]
        shape = ', '.join(str(row[field.name]) for field in dataclasses.fields(Shape))
        lines.append(f'| {shape} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)
