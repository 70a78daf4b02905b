"""What was measured of backbones: in words, as tables, and as a picture."""

from __future__ import annotations

import math
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.contest.contestants import CONTESTANTS, OURS, RELEASE, role_of
from benchmarks.contest.measuring import Row, facts
from benchmarks.kit.memory import MIB
from benchmarks.kit.tables import markdown_table, written
from hiera_mm.cost.report import GIGA, three_digits
from hiera_mm.engine.launch import describe_device

COLUMNS = (
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
"""Of the CSV, in plain numbers."""

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
    (
        'MiB',
        'peak of a pass, beside weights and images, and with `--compile` beside what an earlier '
        "pass left behind, which is the compiler's",
    ),
    ('error', 'relative error of the timed features, measured against float64'),
    ('compiled in s', 'the first pass, which compiles'),
)
PANELS = 3  # in a row
CHARACTERS = 17  # of a title, in an inch
COLOURS = [mpl.colormaps['tab10'](index) for index in (0, 1, 2, 4, 5, 6, 8, 9)]
GREYS = ('0.45', '0.65')


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
        markdown_table(head, timed) if timed else 'Nothing could be timed.',
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

    Args:
        cells: What was measured.
        title: Lines above the picture.
        file: Picture to write, `.png`.
    """
    rows = sorted((row for cell in cells for row in cell if 'seconds' in row), key=_side)
    archs = list(dict.fromkeys(cell[0]['arch'] for cell in cells))
    columns = min(len(archs), PANELS)
    lines = -(-len(archs) // columns)
    size = (max(6.5, 4.3 * columns), 1.3 + 3.7 * lines)
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    wrapped = (textwrap.fill(line, int(CHARACTERS * size[0])) for line in title.splitlines())
    figure.suptitle('\n'.join(wrapped), fontsize='small')
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    labels: dict[str, object] = {}
    for axes, arch in zip(panels, archs, strict=False):
        labels |= _draw_panel(axes, [row for row in rows if row['arch'] == arch])
        axes.set(title=arch, xlabel='side of the image in pixels')
    for axes in panels[::columns]:
        axes.set_ylabel('seconds')
    for axes in panels[len(archs) :]:
        axes.set_visible(False)
    shown = [name for name in CONTESTANTS if name in labels]
    figure.legend(
        [labels[name] for name in shown],
        shown,
        loc='outside lower center',
        ncols=min(len(shown), 2 * columns),
        frameon=False,
        fontsize='small',
    )
    figure.savefig(file)


def _draw_panel(axes: Axes, rows: Sequence[Row]) -> dict[str, object]:
    """Draw the rows of an architecture; return a line for each contestant."""
    lines = {}
    for name in dict.fromkeys(row['contestant'] for row in rows):
        mine = [row for row in rows if row['contestant'] == name]
        x, y = [_side(row) for row in mine], [row['seconds'] for row in mine]
        (lines[name],) = axes.plot(x, y, **_style(name))
    sides = {_side(row): (row['height'], row['width']) for row in rows}
    names = [str(h) if h == w else f'{h}x{w}' for h, w in sides.values()]
    axes.set(xscale='log', yscale='log')
    axes.set_xticks(list(sides), names)
    axes.minorticks_off()
    axes.tick_params(labelbottom=True)  # where panels share an axis, only the last row has any
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda tick, _: f'{tick:g}')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    return lines


def _style(name: str) -> dict[str, object]:
    """Return how the line of a contestant looks, in every picture alike."""
    role = role_of(CONTESTANTS[name])
    index = [other for other, c in CONTESTANTS.items() if role_of(c) == role].index(name)
    if name == OURS:
        return dict(color='black', marker='o', linewidth=2.5, markersize=6, zorder=3)
    if role == 'peer':
        return dict(color=COLOURS[index % len(COLOURS)], marker='o', markersize=4)
    return dict(color=GREYS[index % len(GREYS)], marker='s', markersize=3, linestyle='--')


def _side(row: Row) -> float:
    return math.sqrt(row['height'] * row['width'])
