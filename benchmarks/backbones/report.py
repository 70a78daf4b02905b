"""What was measured of backbones: in words, as tables, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.backbones.contestants import CONTESTANTS
from benchmarks.backbones.results import Cell, Result
from benchmarks.backbones.setting import Setting
from benchmarks.kit.memory import MIB
from benchmarks.kit.tables import markdown_table
from hiera_mm.cost.report import GIGA, three_digits
from hiera_mm.engine.launch import describe_device, processor

_COLUMNS = (
    ('difference', 'largest absolute difference of its features from ours: same weights, float64'),
    ('spread', 'interquartile range of the times, divided by their median'),
    ('time ratio, memory ratio', 'ours divided by it: below 1 ours needs less'),
    ('GFLOP', 'of a pass, two operations to a multiply-add, attention included'),
    ('ceiling', 'speed as a share of the fastest matrix product of this dtype in the same rounds'),
    ('MiB', 'peak of a pass, beside weights and images'),
    ('error', 'relative error of the timed features, measured against float64'),
    ('compiled in s', 'the first pass, which compiles'),
)
_TRAINING = '; a training step counts as three forward passes'
_COMPILED = ", and beside what an earlier pass left behind, which is the compiler's"


def facts(setting: Setting) -> dict[str, Any]:
    """Return what results depend on beside the setting: the machine and the versions."""
    packages = ('torch', *(CONTESTANTS[name].package for name in setting.peers))
    return dict(processor=processor(setting.device), versions=_versions(packages))


def describe(setting: Setting, cells: Sequence[Cell]) -> str:
    """Say in two lines what was measured, when, and on what."""
    parts = ['training step (forward, loss, backward, no optimiser)' if setting.train else
             'inference', f'batch {setting.batch}', setting.dtype]  # fmt: skip
    if setting.dtype != 'float32':
        parts[-1] += ' (autocast)'
    parts += ['torch.compile'] * setting.compiled + ['channels last'] * setting.channels_last
    parts.append(f'{_plural(setting.rounds, "round")} after {_plural(setting.warmups, "warm-up")}')
    where = describe_device(setting.device, setting.threads)
    dates = sorted({cell.date for cell in cells})
    when = dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'
    versions = facts(setting)['versions']
    packages = ', '.join(f'{name} {version}' for name, version in versions.items())
    return f'{", ".join(parts)}; {where}; {when}\n{packages}'


def legend(setting: Setting) -> str:
    """Say what the columns are, as a Markdown list."""
    notes = dict(_COLUMNS)
    if setting.train:
        notes['GFLOP'] += _TRAINING
    if not setting.memory:
        notes['time ratio'] = notes.pop('time ratio, memory ratio')
        del notes['MiB']
    if not setting.compiled:
        del notes['compiled in s']
    elif setting.memory:
        notes['MiB'] += _COMPILED
    return '\n'.join(f'- {name}: {note}' for name, note in notes.items())


def cell_text(cell: Cell) -> str:
    """Return a Markdown table of a cell, who was not timed and why, and a summary."""
    rows = [_row(cell, result) for result in cell.results if result.seconds]
    table = markdown_table(_HEAD, rows, texts=_HEAD[:1])
    height, width = cell.size
    lines = [
        f'### {cell.arch}, {height}x{width}',
        '',
        table if rows else 'Nothing could be timed.',
        '',
        *(f'- not timed: `{r.contestant}`: {r.refusal}' for r in cell.results if r.refusal),
        f'- fastest matrix product: {cell.ceiling / GIGA:.0f} GFLOP/s',
        f'- {cell.summary()}',
    ]
    return '\n'.join(lines)


def write_csv(cells: Sequence[Cell], file: Path) -> None:
    """Write a line for each contestant of each cell, in plain numbers.

    Args:
        cells: What was measured.
        file: File to write.
    """
    with file.open('w', newline='', encoding='utf-8') as out:
        writer = csv.writer(out)
        writer.writerow(_CSV_HEAD)
        for cell in cells:
            for result in cell.results:
                times = result.times
                writer.writerow([
                    cell.date,
                    cell.arch,
                    *cell.size,
                    result.contestant,
                    result.role,
                    result.difference,
                    times and times.median,
                    times and times.spread,
                    cell.time_ratio(result),
                    result.flop,
                    result.speed,
                    cell.ceiling,
                    result.memory,
                    cell.memory_ratio(result),
                    result.error,
                    result.compile_seconds,
                    result.refusal,
                    ' '.join(f'{seconds:.6g}' for seconds in result.seconds),
                ])  # fmt: skip


_HEAD = (
    'contestant',
    'difference',
    'ms',
    'spread',
    'time ratio',
    'GFLOP',
    'GFLOP/s',
    'ceiling',
    'MiB',
    'memory ratio',
    'error',
    'compiled in s',
)
_CSV_HEAD = (
    'date',
    'arch',
    'height',
    'width',
    'contestant',
    'role',
    'difference',
    'seconds',
    'spread',
    'time_ratio',
    'flop',
    'flop_per_second',
    'ceiling_flop_per_second',
    'memory_bytes',
    'memory_ratio',
    'error',
    'compile_seconds',
    'refusal',
    'all_seconds',
)


def _row(cell: Cell, result: Result) -> list[str]:
    assert result.times is not None
    return [
        f'`{result.contestant}`',
        _text(result.difference, lambda x: f'{x:.0e}'),
        three_digits(1e3 * result.times.median),
        f'{result.times.spread:.0%}',
        _text(cell.time_ratio(result), lambda x: f'{x:.2f}'),
        _text(result.flop, lambda x: three_digits(x / GIGA)),
        _text(result.speed, lambda x: three_digits(x / GIGA)),
        _text(result.speed, lambda x: f'{x / cell.ceiling:.0%}'),
        _text(result.memory, lambda x: three_digits(x / MIB)),
        _text(cell.memory_ratio(result), lambda x: f'{x:.2f}'),
        _text(result.error, lambda x: f'{x:.0e}'),
        _text(result.compile_seconds, three_digits),
    ]


def _text(value: Any, write: Any) -> str:
    return '' if value is None else write(value)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of what is installed by the names of its distributions."""
    distributions = metadata.packages_distributions()
    names = dict.fromkeys(distributions[p][0] for p in packages if p in distributions)
    return {name: metadata.version(name) for name in names}


def _plural(count: int, name: str) -> str:
    return f'{count} {name}' + ('' if count == 1 else 's')
