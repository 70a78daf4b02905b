"""What was measured of operators: as a table, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
import torchvision

from benchmarks.kit.rounds import Times
from benchmarks.kit.tables import markdown_table
from benchmarks.operators.cases import Functions
from benchmarks.operators.measuring import Result, Setting
from hiera_mm.cost.report import three_digits
from hiera_mm.engine.launch import describe_device
from hiera_mm.errors import listing
from hiera_mm.ops.kernels import KERNELS


def describe(setting: Setting, compiled: Functions | None) -> str:
    """Say what was compared with what, on what.

    Args:
        setting: How it was measured.
        compiled: The functions of a compiled mmcv; None if there is none.
    """
    where = describe_device(setting.device, setting.threads)
    lines = [
        f"Ours: mmcv's operators served by torchvision {torchvision.__version__} and torch "
        f'{torch.__version__}. float32 on {where}, median of {setting.rounds} rounds.'
    ]
    if compiled is None:
        lines.append(
            'No compiled mmcv is installed here, so there is nothing to compare ours with.'
        )
        return '\n'.join(lines)
    lines.append(f'Compiled: those of {_mmcv()}. Answers were compared before anything was timed.')
    only = [name for name in compiled if not name.startswith('_') and name not in KERNELS]
    if only:
        lines.append(f'Only in the compiled mmcv: {listing(sorted(only))}.')
    return '\n'.join(lines)


def results_table(results: Sequence[Result]) -> str:
    """Return a Markdown table with a row for each case, without columns that nothing is in.

    Args:
        results: What was measured.
    """
    head = ('operator', 'inputs', 'ours (ms)', 'spread', 'compiled (ms)', 'spread',
            'ours / compiled', 'note')  # fmt: skip
    rows = [
        (
            result.operator,
            result.inputs,
            *_cells(result.ours),
            *_cells(result.compiled),
            '' if result.ratio is None else three_digits(result.ratio),
            result.note,
        )
        for result in results
    ]
    return markdown_table(head, rows, texts=('operator', 'inputs', 'note'))


def write_csv(results: Sequence[Result], file: Path) -> None:
    """Write a line for each case, in plain numbers.

    Args:
        results: What was measured.
        file: File to write.
    """
    with file.open('w', newline='', encoding='utf-8') as out:
        writer = csv.writer(out)
        writer.writerow(
            ('operator', 'inputs', 'ours_seconds', 'ours_spread', 'compiled_seconds',
             'compiled_spread', 'ratio', 'note')
        )  # fmt: skip
        for result in results:
            row: list[object] = [result.operator, result.inputs]
            for times in (result.ours, result.compiled):
                row += (None, None) if times is None else (times.median, times.spread)
            writer.writerow([*row, result.ratio, result.note])


def _cells(times: Times | None) -> tuple[str, str]:
    if times is None:
        return '', ''
    return three_digits(1e3 * times.median), f'{times.spread:.0%}'


def _mmcv() -> str:
    for name in ('onedl-mmcv', 'mmcv'):
        try:
            return f'{name} {metadata.version(name)}'
        except metadata.PackageNotFoundError:
            continue
    return 'mmcv'
