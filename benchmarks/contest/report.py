"""What was measured of backbones: in words, as tables, and as a picture."""

from __future__ import annotations

import math
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.contest.contestants import CONTESTANTS, OTHERS, OURS, RELEASE
from benchmarks.contest.measuring import Row, facts
from benchmarks.kit.memory import MIB
from benchmarks.kit.tables import written
from hiera_mm.cost.report import GIGA, table, three_digits
from hiera_mm.engine.launch import describe_device

LEGEND = (
    ('difference', 'largest absolute difference of its features from ours: same weights, float64'),
    ('spread', 'interquartile range of the times, divided by their median'),
    ('time ratio, memory ratio', 'ours divided by it: below 1 ours needs less'),
    (
        'GFLOP',
        'of a pass, two operations to a multiply-add, attention included; a training step counts '
        'as three forward passes',
    ),
    ('ceiling', 'speed as a share of the fastest matrix product of this dtype in the same rounds'),
    ('MiB', 'peak of a pass, beside weights, images and what an earlier pass left behind'),
    ('error', 'relative error of the timed features, measured against float64'),
    ('compiled in s', 'the first pass, which compiles'),
)
CHARACTERS = 17  # of a title, in an inch


def describe(setting: Namespace, cells: Sequence[Sequence[Row]]) -> str:
    """Say in two lines what was measured, when, and on what."""
    parts = ['training step (forward, loss, backward, no optimiser)' if setting.train else
             'inference', f'batch {setting.batch}', setting.dtype]  # fmt: skip
    if setting.dtype != 'float32':
        parts[-1] += ' (autocast)'
    parts += ['torch.compile'] * setting.compile + ['channels last'] * setting.channels_last
    parts.append(f'{setting.rounds} rounds after {setting.warmups} warm-ups')
    where = describe_device(setting.device, setting.threads)
    dates = sorted({row['date'] for rows in cells for row in rows})
    versions = facts(setting)['versions']
    packages = ', '.join(f'{name} {version}' for name, version in versions.items())
    return f'{", ".join(parts)}; {where}; {" to ".join({dates[0]: 0, dates[-1]: 0})}\n{packages}'


def legend() -> str:
    """Say what the columns are, as a Markdown list."""
    return '\n'.join(f'- {name}: {note}' for name, note in LEGEND)


def cell_text(rows: Sequence[Row]) -> str:
    """Return a Markdown table of a cell, who was not timed and why, and a summary."""
    first = rows[0]
    timed = [_cells(row) for row in rows if 'seconds' in row]
    head = ('contestant', 'difference', 'ms', 'spread', 'time ratio', 'GFLOP', 'GFLOP/s',
            'ceiling', 'MiB', 'memory ratio', 'error', 'compiled in s')  # fmt: skip
    lines = [
        f'### {first["arch"]}, {first["height"]}x{first["width"]}',
        '',
        table(head, timed) if timed else 'Nothing could be timed.',
        '',
        *(f'- not timed: `{r["contestant"]}`: {r["refusal"]}' for r in rows if r.get('refusal')),
        f'- fastest matrix product: {first["ceiling_flop_per_second"] / GIGA:.0f} GFLOP/s',
        f'- {summary(rows)}',
    ]
    return '\n'.join(lines)


def _cells(row: Row) -> list[str]:
    def scaled(key: str, unit: float) -> str:
        return three_digits(row[key] / unit) if row.get(key) is not None else ''

    return [
        f'`{row["contestant"]}`',
        written(row.get('difference'), '.0e'),
        scaled('seconds', 1e-3),
        f'{row["spread"]:.0%}',
        written(row.get('time_ratio'), '.2f'),
        scaled('flop', GIGA),
        scaled('flop_per_second', GIGA),
        f'{row["flop_per_second"] / row["ceiling_flop_per_second"]:.0%}',
        scaled('memory_bytes', MIB),
        written(row.get('memory_ratio'), '.2f'),
        f'{row["error"]:.0e}',
        scaled('compile_seconds', 1),
    ]


def summary(rows: Sequence[Row]) -> str:
    """Say in one line how ours stands against the best peers."""
    peers = [row for row in rows if row['role'] == 'peer']
    fastest = max(peers, key=lambda row: row.get('time_ratio', 0), default={})
    leanest = max(peers, key=lambda row: row.get('memory_ratio', 0), default={})
    if 'time_ratio' not in fastest:
        return 'no peer to compare with'
    text = f'time: {fastest["time_ratio"]:.2f} of the fastest peer ({fastest["contestant"]})'
    for row in peers:
        if row['contestant'] == RELEASE and row is not fastest and 'time_ratio' in row:
            text += f', {row["time_ratio"]:.2f} of the release'
    if 'memory_ratio' in leanest:
        text += f'; memory: {leanest["memory_ratio"]:.2f} of the leanest peer'
        text += f' ({leanest["contestant"]})'
    return text


def draw_times(cells: Sequence[Sequence[Row]], title: str, file: Path) -> None:
    """Draw the time of each contestant over the side of the image, a panel for each architecture.

    Both axes are logarithmic. The side of an image that is not square is that of a square of as
    many pixels.
    """
    rows = sorted((row for cell in cells for row in cell if 'seconds' in row), key=_side)
    archs = list(dict.fromkeys(row['arch'] for row in rows))
    width = max(6.5, 4.3 * len(archs))
    figure = Figure(figsize=(width, 5), dpi=120, layout='constrained')
    wrapped = (textwrap.fill(line, int(CHARACTERS * width)) for line in title.splitlines())
    figure.suptitle('\n'.join(wrapped), fontsize='small')
    panels = figure.subplots(1, len(archs), squeeze=False, sharey=True)[0]
    sides = {
        _side(row): str(h) if h == w else f'{h}x{w}'
        for row in rows
        for h, w in [(row['height'], row['width'])]
    }
    lines = {}
    for axes, arch in zip(panels, archs, strict=True):
        for index, name in enumerate(CONTESTANTS):
            mine = [row for row in rows if (row['arch'], row['contestant']) == (arch, name)]
            if mine:
                ours = name == OURS
                (lines[name],) = axes.plot(
                    [_side(row) for row in mine],
                    [row['seconds'] for row in mine],
                    'o--' if name in OTHERS else 'o-',
                    color='black' if ours else f'C{index - 1}',
                    linewidth=2.5 if ours else 1.5,
                    zorder=3 if ours else 2,
                )
        axes.set(title=arch, xlabel='side of the image in pixels', xscale='log', yscale='log')
        axes.set_xticks(list(sides), list(sides.values()))
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda tick, _: f'{tick:g}')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_ylabel('seconds')
    figure.legend(
        lines.values(),
        lines.keys(),
        loc='outside lower center',
        ncols=min(len(lines), 2 * len(archs)),
        frameon=False,
        fontsize='small',
    )
    figure.savefig(file)


def _side(row: Row) -> float:
    return math.sqrt(row['height'] * row['width'])
