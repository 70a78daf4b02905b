"""The time of backbones over the side of the image, as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.backbones.contestants import CONTESTANTS, OURS
from benchmarks.backbones.results import Cell

PANELS = 3  # in a row
CHARACTERS = 17  # of a title, in an inch
_COLOURS = [mpl.colormaps['tab10'](index) for index in (0, 1, 2, 4, 5, 6, 8, 9)]
_GREYS = ('0.45', '0.65')


def draw_times(cells: Sequence[Cell], title: str, file: Path) -> None:
    """Draw the time of each contestant over the side of the image, a panel for each architecture.

    Both axes are logarithmic. The side of an image that is not square is that of a square of as
    many pixels.

    Args:
        cells: What was measured.
        title: Lines above the picture.
        file: Picture to write, `.png`.
    """
    archs = list(dict.fromkeys(cell.arch for cell in cells))
    columns = min(len(archs), PANELS)
    rows = -(-len(archs) // columns)
    size = (max(6.5, 4.3 * columns), 1.3 + 3.7 * rows)
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    lines = (textwrap.fill(line, int(CHARACTERS * size[0])) for line in title.splitlines())
    figure.suptitle('\n'.join(lines), fontsize='small')
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    labels: dict[str, object] = {}
    for axes, arch in zip(panels, archs, strict=False):
        mine = sorted((cell for cell in cells if cell.arch == arch), key=_side)
        for name, line in _draw_panel(axes, mine).items():
            labels.setdefault(name, line)
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


def _draw_panel(axes: Axes, cells: Sequence[Cell]) -> dict[str, object]:
    """Draw the cells of an architecture; return a line for each contestant."""
    lines = {}
    for name in CONTESTANTS:
        points = [
            (_side(cell), result.median)
            for cell in cells
            for result in cell.results
            if result.contestant == name and result.median is not None
        ]
        if points:
            (lines[name],) = axes.plot(*zip(*points, strict=True), **_style(name))
    sides = {_side(cell): cell.size for cell in cells}
    axes.set(xscale='log', yscale='log')
    axes.set_xticks(list(sides), [_label(*size) for size in sides.values()])
    axes.minorticks_off()
    axes.tick_params(labelbottom=True)  # where panels share an axis, only the last row has any
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda tick, _: f'{tick:g}')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    return lines


def _style(name: str) -> dict[str, object]:
    """Return how the line of a contestant looks, in every picture alike."""
    alike = [other for other, c in CONTESTANTS.items() if c.role == CONTESTANTS[name].role]
    index = alike.index(name)
    if name == OURS:
        return dict(color='black', marker='o', linewidth=2.5, markersize=6, zorder=3)
    if CONTESTANTS[name].role == 'peer':
        return dict(color=_COLOURS[index % len(_COLOURS)], marker='o', markersize=4)
    return dict(color=_GREYS[index % len(_GREYS)], marker='s', markersize=3, linestyle='--')


def _side(cell: Cell) -> float:
    return math.sqrt(cell.size[0] * cell.size[1])


def _label(height: int, width: int) -> str:
    return str(height) if height == width else f'{height}x{width}'
