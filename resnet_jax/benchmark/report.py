"""What was measured, as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns one line for training and one for evaluation of each row of `measure`, with a header."""
    header = ('config', 'step', 'dtype', 'devices', 'batch', 'images/s', 'of product', 'PyTorch', 'ratio', 'lowest-highest')
    cells = [header]
    for row in rows:
        for what in ('train', 'eval'):
            if what not in row:
                continue
            part = row[what]
            peer = ('', '', '')
            if 'ratio' in part:
                ratio = part['ratio']
                rate = part['torch']['images_per_second']['median']
                peer = (_number(rate), f'{ratio["median"]:.2f}', f'{ratio["low"]:.2f}-{ratio["high"]:.2f}')
            batch = row['batch_size' if what == 'train' else 'eval_batch_size']
            rate, share = part['images_per_second']['median'], f'{100 * part["share_of_matrix_product"]:.0f} %'
            devices = str(row['facts']['devices'])
            cells.append((row['name'], what, row['dtype'], devices, str(batch), _number(rate), share, *peer))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        pairs = zip(line, widths, range(len(line)), strict=True)
        lines.append('  '.join(cell.ljust(w) if i < 3 else cell.rjust(w) for cell, w, i in pairs).rstrip())
    return '\n'.join(lines)


def details(row: Mapping[str, Any]) -> str:
    """Returns what the table leaves out: hardware, versions, compilation, memory, start."""
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
    for what, compiled in row['compile'].items():
        cached = ', read from the persistent cache' if compiled['from_cache'] else ''
        lines.append(f'compiling {what.replace("_", " ")}: {compiled["seconds"]:.1f} s{cached}')
    memory = row['peak_memory']
    text = ', '.join(f'{where} {size / 2**20:,.0f} MiB' for where, size in memory.items())
    scratch = row['compile']['train']['scratch_bytes']
    lines.append(f'peak memory: {text}; scratch of a training step: {(scratch or 0) / 2**20:,.0f} MiB')
    if 'torch' in row:
        text = ', '.join(f'{where} {size / 2**20:,.0f} MiB' for where, size in row['torch']['peak_memory'].items())
        idle = max(row['idle'].values())
        lines.append(f'PyTorch: {row["train"]["torch"]["variant"]}, peak memory: {text}')
        lines.append(f'each side used at most {100 * idle:.1f} % of a core while the other was measured')
    return '\n'.join(lines)


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'
