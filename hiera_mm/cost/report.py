"""What was measured as tables: for the terminal, in Markdown, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import ops
from ..engine.launch import describe_device
from ..trial.batches import BATCH
from .measure import Cost, Part, Setting, Timing

MEGA, GIGA, MIB = 1e6, 1e9, 2**20
_COMPILED = (
    'mmcv has compiled operators here: their deformable convolution and, on a GPU, deformable '
    'attention are not counted.'
)


def describe(setting: Setting) -> str:
    """Say what the figures are, and what was measured on what.

    Args:
        setting: How it was measured.
    """
    lines = ['GFLOPs are 10^9 multiply-adds of the prediction of one image, as the papers count.']
    if ops.source() == 'compiled':
        lines.append(_COMPILED)
    if setting.timed or setting.train or setting.activations:
        where = describe_device(setting.device)
        lines.append(f'Measured in {setting.dtype} on {where}, torch {torch.__version__}.')
    return '\n'.join(lines)


def parts_table(cost: Cost) -> str:
    """Return the cost of each part as a table, with memory and speed below it."""
    total = cost.total
    head = ('part', 'parameters (M)', '%', 'GFLOPs', '%', 'attention (GFLOPs)')
    rows = [_cells(part, total) for part in (*cost.parts, total)]
    lines = [f'{cost.config}, {cost.size[0]}x{cost.size[1]}', '']
    lines += [table(head, rows, markdown=False), '']
    if cost.detections is not None:
        lines.append(f'counted with {cost.detections} detections')
    if cost.activations is not None:
        lines.append(f'kept for the backward pass: {cost.activations / MIB:,.0f} MiB an image')
    for name, timing, images in _timings(cost):
        if timing is not None:
            speed = f'{three_digits(images / timing.seconds)} images/s'
            lines.append(f'{name}: {speed} ({three_digits(timing.seconds)} s, batch {images})')
            if timing.peak is not None:
                lines.append(f'peak memory of {name}: {timing.peak / MIB:,.0f} MiB')
    return '\n'.join(lines)


def summary(costs: Sequence[Cost], *, markdown: bool = False) -> str:
    """Return a table with a row for each cost.

    Args:
        costs: What was measured.
        markdown: Return it in Markdown.
    """
    rows = [_summary_cells(cost) for cost in costs]
    return table(_HEAD, rows, texts=2, markdown=markdown)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    keep_empty: bool = False,
    markdown: bool = True,
) -> str:
    """Return an aligned table.

    Args:
        head: Names of the columns.
        rows: A cell for each column.
        texts: How many of the first columns are texts, aligned to the left.
        keep_empty: Keep columns that nothing is in.
        markdown: Return it in Markdown, else for a terminal.
    """
    padded, rules = [], []
    for index, column in enumerate(zip(head, *rows, strict=True)):
        if not keep_empty and not any(column[1:]):
            continue
        width = max(3, *map(len, column))
        is_text = index < texts
        padded.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
        rules.append('-' * width if is_text or not markdown else '-' * (width - 1) + ':')
    first, *others = zip(*padded, strict=True)
    if markdown:
        return '\n'.join(f'| {" | ".join(cells)} |' for cells in (first, rules, *others))
    lines = ['  '.join(cells).rstrip() for cells in (first, *others)]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def write_csv(costs: Sequence[Cost], file: Path) -> None:
    """Write a line for each part and for the total of each cost, in plain numbers.

    Args:
        costs: What was measured.
        file: File to write.
    """
    with file.open('w', newline='', encoding='utf-8') as out:
        writer = csv.writer(out)
        writer.writerow(_CSV_HEAD)
        for cost in costs:
            measured = [cost.activations]
            for _, timing, _ in _timings(cost):
                measured += timing or (None, None)
            start = (cost.config, *cost.size)
            writer.writerows((*start, *part, *[None] * len(measured)) for part in cost.parts)
            writer.writerow((*start, *cost.total, *measured))


_HEAD = (
    'config', 'size', 'parameters (M)', 'backbone GFLOPs', 'rest GFLOPs', 'total GFLOPs',
    'activations (MiB)', 'images/s', 'peak (MiB)', 'training images/s', 'training peak (MiB)',
)  # fmt: skip
_CSV_HEAD = (
    'config', 'height', 'width', 'part', 'parameters', 'multiply_adds', 'attention_multiply_adds',
    'activation_bytes', 'seconds', 'peak_bytes', 'training_seconds', 'training_peak_bytes',
)  # fmt: skip


def _cells(part: Part, total: Part) -> tuple[str, ...]:
    return (
        part.name,
        f'{part.parameters / MEGA:.2f}',
        _percent(part.parameters, total.parameters),
        f'{part.multiply_adds / GIGA:.2f}',
        _percent(part.multiply_adds, total.multiply_adds),
        f'{part.attention / GIGA:.2f}' if part.attention else '',
    )


def _summary_cells(cost: Cost) -> tuple[str, ...]:
    flops = [part.multiply_adds for part in (cost.backbone, cost.rest, cost.total)]
    return (
        cost.config,
        f'{cost.size[0]}x{cost.size[1]}',
        f'{cost.total.parameters / MEGA:.1f}',
        *(f'{number / GIGA:.1f}' for number in flops),
        '' if cost.activations is None else f'{cost.activations / MIB:,.0f}',
        *(cell for _, timing, images in _timings(cost) for cell in _speed_cells(timing, images)),
    )


def _timings(cost: Cost) -> tuple[tuple[str, Timing | None, int], ...]:
    """Return what was timed, with the number of images that it is for."""
    return (('prediction', cost.prediction, 1), ('training', cost.training, BATCH))


def _speed_cells(timing: Timing | None, images: int) -> tuple[str, str]:
    if timing is None:
        return '', ''
    peak = '' if timing.peak is None else f'{timing.peak / MIB:,.0f}'
    return three_digits(images / timing.seconds), peak


def _percent(share: int, whole: int) -> str:
    return f'{100 * share / whole:.1f}' if whole else '-'


def three_digits(value: float) -> str:
    """Return a number with three significant digits, a large one with all of its own.

    Args:
        value: The number.
    """
    return f'{value:.3g}' if value < 999.5 else f'{value:.0f}'
