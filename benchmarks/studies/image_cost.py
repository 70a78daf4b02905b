"""What a larger image costs: time and memory of the backbone for three layouts of windows."""

from __future__ import annotations

import math
import random
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.kit.ledger import Ledger
from benchmarks.kit.memory import check_memory, in_new_process, memory_of_pass
from benchmarks.kit.timing import measure_rounds
from hiera_mm.cost.report import table
from hiera_mm.engine.launch import check_device, describe_device
from hiera_mm.errors import UserError
from hiera_mm.network import VARIANTS, HieraTrunk, Variant
from hiera_mm.network.trunk import UNIT_PIXELS

LAYOUTS: dict[str, Variant] = {
    'windows alone': replace(VARIANTS['tiny'], window_sizes=(8, 4, 16, 8)),
    'SAM 2 (sam2_tiny)': VARIANTS['sam2_tiny'],
    'release (tiny)': VARIANTS['tiny'],
}
"""The same network three times, but for where it attends: in windows, in windows but for three
blocks, and globally in the last two stages. Windows of 16 tokens are 256 pixels, so that those of
the first layout divide every side that is a multiple of 256."""

GIB = 2**30
Row = dict[str, Any]
"""What was measured of a layout at a side in pixels; memory in bytes."""
VALUES: dict[str, Callable[[Row], float]] = {
    's': lambda row: row['seconds'],
    'GiB': lambda row: row['memory'] / GIB,
}


def check(setting: Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        setting: The options of ``benchmarks/image_cost.py``: `sides`, `train`, `device`, `dtype`,
            `threads` and `repeats`.
    """
    setting.sides = sorted(set(setting.sides))
    if setting.sides[0] < UNIT_PIXELS:
        raise UserError(f'a side must be at least {UNIT_PIXELS} pixels, got {setting.sides[0]}')
    if len(setting.sides) < 2:
        raise UserError('at least two different sides are needed to see how the cost grows')
    check_device(setting.device)
    check_memory(setting.device)


def measure_costs(setting: Namespace, ledger: Ledger, report: Callable[[str], None]) -> list[Row]:
    """Measure every layout at every size but what the ledger holds, each in a process of its own.

    The order is random; the rows come in that of :data:`LAYOUTS`, sides ascending.
    """
    cells = {f'{layout} at {side}': (layout, side) for layout in LAYOUTS for side in setting.sides}
    missing = [name for name in cells if name not in ledger.results]
    random.Random(0).shuffle(missing)
    for name in missing:
        row = in_new_process(measure_cost, *cells[name], setting)
        ledger.add(name, row)
        done = f'({len(ledger.results)}/{len(cells)})'
        report(f'{done} {name}: {row["seconds"]:.2f} s, {row["memory"] / GIB:.2f} GiB')
    return [ledger.results[name] for name in cells]


def measure_cost(layout: str, side: int, setting: Namespace) -> Row:
    """Measure one layout at one size; meant for a process that does nothing else."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, setting.dtype)
    trunk = HieraTrunk(LAYOUTS[layout]).to(setting.device, dtype).train(setting.train)
    image = torch.rand(1, 3, side, side, device=setting.device, dtype=dtype)

    def run() -> None:
        with torch.set_grad_enabled(setting.train):
            total = sum(features.float().square().mean() for features in trunk(image))
        if setting.train:
            total.backward()
            trunk.zero_grad()

    times = measure_rounds({layout: run}, setting.repeats, device=setting.device)[layout]
    memory = memory_of_pass(run, setting.device)
    return dict(layout=layout, side=side, seconds=times.median, spread=times.spread, memory=memory)


def exponent(rows: Iterable[Row], value: Callable[[Row], float]) -> float:
    """Return the power of the number of pixels that a value grows with (least squares, log-log)."""
    points = [(2 * math.log(row['side']), math.log(value(row))) for row in rows]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def describe(setting: Namespace) -> str:
    """Say in one line what was measured on what."""
    where = describe_device(setting.device, setting.threads)
    what = 'forward and backward pass' if setting.train else 'inference'
    return f'{what}, one image, {setting.dtype}, {where}, torch {torch.__version__}'


def cost_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table: seconds and GiB for each layout and side, exponents last."""
    lines = []
    for layout in LAYOUTS:
        mine = [row for row in rows if row['layout'] == layout]
        for unit, value in VALUES.items():
            cells = [f'{value(row):.2f}' for row in mine]
            power = f'{exponent(mine, value):.2f}'
            lines.append((layout if unit == 's' else '', unit, *cells, power))
    sides = map(str, sorted({row['side'] for row in rows}))
    return table(('layout', '', *sides, 'exponent'), lines, texts=2)


def draw_costs(rows: Sequence[Row], title: str, file: Path) -> None:
    """Draw time and memory over the side of the image, both axes logarithmic."""
    figure = Figure(figsize=(11, 4.6), dpi=120, layout='constrained')
    figure.suptitle(title, fontsize='medium')
    names = ('Time', 'seconds'), ('Memory at the peak, beyond weights and image', 'GiB')
    sides = sorted({row['side'] for row in rows})
    for axes, (name, unit), value in zip(
        figure.subplots(1, 2), names, VALUES.values(), strict=True
    ):
        for layout in LAYOUTS:
            mine = [row for row in rows if row['layout'] == layout]
            label = f'{layout}: pixels to the {exponent(mine, value):.2f}'
            axes.plot(sides, [value(row) for row in mine], 'o-', label=label)
        low = min(value(row) for row in rows if row['side'] == sides[0])
        linear = [0.8 * low * (side / sides[0]) ** 2 for side in sides]
        axes.plot(sides, linear, ':', color='grey', label='linear in pixels')
        axes.set(title=name, xlabel='side of the image in pixels', ylabel=unit)
        axes.set(xscale='log', yscale='log')
        axes.set_xticks(sides, [str(side) for side in sides], minor=False)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda tick, _: f'{tick:g}')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, fontsize='small')
    figure.savefig(file)
