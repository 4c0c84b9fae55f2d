"""Formats measurements as a table and as JSON."""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.errors import ResourceError
from resnet_jax.runtime.files import write_json
from resnet_jax.typing import Row


def save(path: str | Path | None, rows: Row | Sequence[Row]) -> None:
    """Writes measurements as JSON, atomically; does nothing without a path.

    Raises:
      ResourceError: the file cannot be written.
    """
    if not path:
        return
    try:
        write_json(path, rows)
    except OSError as error:
        raise ResourceError(f'{path} cannot be written: {error.strerror or error}; choose another place') from None


def table(rows: Sequence[Row]) -> str:
    """Returns a table with a header and, for each row of `measure`, a line for training and one for evaluation."""
    header = (
        *('config', 'step', 'dtype', 'devices', 'batch', 'images/s'),
        *('of product', 'of memory', 'PyTorch', 'ratio', 'lowest-highest'),
    )
    cells = [header]
    failed = []
    for row in rows:
        if 'error' in row:
            failed.append(f'{row["name"]}, {row["dtype"]}: {row["error"]}')
        for phase in ('train', 'eval'):
            if phase not in row:
                continue
            part = row[phase]
            peer = ('', '', '')
            if 'ratio' in part:
                ratio = part['ratio']
                rate = part['torch']['images_per_second']['median']
                peer = (_number(rate), f'{ratio["median"]:.2f}', f'{ratio["low"]:.2f}-{ratio["high"]:.2f}')
            batch = row['batch_size' if phase == 'train' else 'eval_batch_size']
            rate = part['images_per_second']['median']
            shares = (f'{100 * part[name]:.0f} %' for name in ('share_of_matrix_product', 'share_of_memory_rate'))
            devices = str(row['facts']['devices'])
            cells.append((row['name'], phase, row['dtype'], devices, str(batch), _number(rate), *shares, *peer))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        pairs = zip(line, widths, range(len(line)), strict=True)
        lines.append('  '.join(cell.ljust(w) if i < 3 else cell.rjust(w) for cell, w, i in pairs).rstrip())
    return '\n'.join(lines + failed)


def details(row: Row) -> str:
    """Returns the facts that the table leaves out: hardware, versions, compilation, memory, start-up."""
    facts, lines = row['facts'], []
    environment = facts['environment']
    packages = ', '.join(
        f'{name} {environment["packages"][name]}' for name in ('jax', 'flax') if name in environment['packages']
    )
    torch = f', torch {row["torch"]["torch"]}' if 'torch' in row else ''
    lines.append(f'{environment["device"]}, {environment["cpu_cores"]} cores, {facts["devices"]} device(s); {packages}{torch}')
    lines.append(
        f'{row["model"]}: {facts["parameters"]:,} parameters, {facts["multiply_adds"]:,} multiply-adds; '
        f'random data ({row["dataset"]})'
    )
    rates = {side: values[row['dtype']] / 1e9 for side, values in row['matrix_products'].items()}
    rates_text = ', '.join(f'{rate:,.0f} with {"jax" if side == "ours" else side}' for side, rate in rates.items())
    lines.append(f'square matrix product in {row["dtype"]}: {rates_text} (G multiply-adds/s)')
    lines.append(f'memory: {row["memory_rate"] / 1e9:,.0f} GB/s read and written')
    for start, seconds in row.get('startup', {}).items():
        lines.append(
            f'{start} start: first training step after {seconds["starts"]:.1f} s, of these {seconds["compile"]:.1f} s to '
            f'compile it or to read it compiled; done after {seconds["done"]:.1f} s'
        )
    for phase, compiled in row['compile'].items():
        cached = ', read from the persistent cache' if compiled['from_cache'] else ''
        lines.append(f'compiling {phase}: {compiled["seconds"]:.1f} s{cached}')
    memory = row['peak_memory']
    text = ', '.join(f'{where} {size / 2**20:,.0f} MiB' for where, size in memory.items())
    lines.append(f'peak memory: {text}')
    for phase, compiled in row['compile'].items():
        scratch, moved = (compiled['scratch_bytes'] or 0) / 2**20, compiled['step_bytes'] / 2**20
        lines.append(f'scratch memory of {phase}: {scratch:,.0f} MiB; a step reads and writes {moved:,.0f} MiB')
    if 'torch' in row:
        text = ', '.join(f'{where} {size / 2**20:,.0f} MiB' for where, size in row['torch']['peak_memory'].items())
        idle = max(row['idle'].values())
        variants = ', '.join(f'{phase} {row[phase]["torch"]["variant"]}' for phase in ('train', 'eval') if phase in row)
        lines.append(f'PyTorch: {variants}; peak memory: {text}')
        lines.append(f'each side used at most {100 * idle:.1f} % of a core while the other was measured')
    return '\n'.join(lines)


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'
