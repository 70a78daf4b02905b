"""What a larger image costs: time and memory of the backbone for three layouts of windows."""

from __future__ import annotations

import csv
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.kit.ledger import Ledger
from benchmarks.kit.memory import check_memory, peak_memory
from hiera_mm.engine.launch import check_device, describe_device
from hiera_mm.errors import UserError
from hiera_mm.network import VARIANTS, HieraTrunk, Variant
from hiera_mm.network.trunk import WINDOW_PIXELS

LAYOUTS: dict[str, Variant] = {
    'windows alone': replace(VARIANTS['tiny'], window_sizes=(8, 4, 16, 8)),
    'SAM 2 (sam2_tiny)': VARIANTS['sam2_tiny'],
    'release (tiny)': VARIANTS['tiny'],
}
"""The same network three times, but for where it attends: in windows, in windows but for three
blocks, and globally in the last two stages. Windows of 16 tokens are 256 pixels, so that those of
the first layout divide every side that is a multiple of 256."""

SIDES = (512, 768, 1024, 1280, 1536, 1792, 2048)
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """How the cost is measured.

    Attributes:
        sides: Sides of the square images, in pixels.
        train: Measure forward and backward pass instead of inference.
        device: A torch device.
        dtype: Name of the dtype of weights and images.
        threads: Threads of torch on a CPU.
        repeats: Timed passes of each image size, after one that is not timed.
    """

    sides: tuple[int, ...] = SIDES
    train: bool = False
    device: str = 'cpu'
    dtype: str = 'float32'
    threads: int = 2
    repeats: int = 3

    def __post_init__(self) -> None:
        for side in self.sides:
            if side < WINDOW_PIXELS:
                raise UserError(f'a side must be at least {WINDOW_PIXELS} pixels, got {side}')
        if len(set(self.sides)) < 2:
            raise UserError('at least two different sides are needed to see how the cost grows')
        if self.repeats < 1 or self.threads < 1:
            raise UserError('repeats and threads must be at least 1')
        check_memory(check_device(self.device))


@dataclass(frozen=True)
class Cost:
    """What one pass costs.

    Attributes:
        layout: A key of :data:`LAYOUTS`.
        side: Side of the image in pixels.
        seconds: Median time.
        spread: Slowest less fastest, in seconds.
        memory: Bytes needed at the peak beyond weights and image.
    """

    layout: str
    side: int
    seconds: float
    spread: float
    memory: int


def measure_costs(
    setting: Setting, ledger: Ledger, report: Callable[[Cost, int, int], None]
) -> list[Cost]:
    """Measure every layout at every size, in random order, each in a process of its own.

    A fresh process is what makes the peak of memory that of one size alone.

    Args:
        setting: How to measure.
        ledger: Keeps what is measured; what it holds already is not measured again.
        report: Called with each cost, how many are done, and how many there are.

    Returns:
        The costs, layouts in the order of :data:`LAYOUTS`, sides ascending.
    """
    cells = [(layout, side) for layout in LAYOUTS for side in sorted(set(setting.sides))]
    missing = [cell for cell in cells if _name(*cell) not in ledger.results]
    random.Random(0).shuffle(missing)
    context = multiprocessing.get_context('spawn')
    for layout, side in missing:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            cost = pool.submit(measure_cost, layout, side, setting).result()
        ledger.add(_name(layout, side), asdict(cost))
        report(cost, len(ledger.results), len(cells))
    return [Cost(**ledger.results[_name(*cell)]) for cell in cells]


def measure_cost(layout: str, side: int, setting: Setting) -> Cost:
    """Measure one layout at one size; meant for a process that does nothing else."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    device = torch.device(setting.device)
    trunk = HieraTrunk(LAYOUTS[layout]).to(device, getattr(torch, setting.dtype))
    trunk.train(setting.train)
    image = torch.rand(1, 3, side, side, device=device, dtype=getattr(torch, setting.dtype))

    def run() -> None:
        with torch.set_grad_enabled(setting.train):
            total = sum(features.float().square().mean() for features in trunk(image))
        if setting.train:
            total.backward()
            trunk.zero_grad()
        if device.type == 'cuda':
            torch.cuda.synchronize()

    memory = peak_memory(run, device)
    times = []
    for _ in range(setting.repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return Cost(layout, side, statistics.median(times), max(times) - min(times), memory)


def exponent(costs: Iterable[Cost], value: Callable[[Cost], float]) -> float:
    """Return the power of the number of pixels that a value grows with (least squares, log-log).

    Args:
        costs: Costs of one layout at two sizes or more.
        value: What of a cost to look at.
    """
    points = [(2 * math.log(cost.side), math.log(value(cost))) for cost in costs]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def describe(setting: Setting) -> str:
    """Say in one line what was measured on what."""
    where = describe_device(setting.device, setting.threads)
    what = 'forward and backward pass' if setting.train else 'inference'
    return f'{what}, one image, {setting.dtype}, {where}, torch {torch.__version__}'


def cost_table(costs: Sequence[Cost]) -> str:
    """Return a Markdown table: seconds and GiB for each layout and side, exponents last."""
    sides = sorted({cost.side for cost in costs})
    lines = [
        '| layout | | ' + ' | '.join(str(side) for side in sides) + ' | exponent |',
        '| --- | --- |' + ' --- |' * (len(sides) + 1),
    ]
    for layout in LAYOUTS:
        mine = [cost for cost in costs if cost.layout == layout]
        for unit, value in (
            ('s', lambda cost: cost.seconds),
            ('GiB', lambda cost: cost.memory / GIB),
        ):
            cells = [f'{value(cost):.2f}' for cost in mine]
            cells.append(f'{exponent(mine, value):.2f}')
            lines.append(f'| {layout if unit == "s" else ""} | {unit} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def write_costs(costs: Sequence[Cost], file: Path) -> None:
    """Write the costs as CSV."""
    with file.open('w', newline='', encoding='utf-8') as out:
        writer = csv.DictWriter(out, fieldnames=list(asdict(costs[0])))
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)


def draw_costs(costs: Sequence[Cost], title: str, file: Path) -> None:
    """Draw time and memory over the side of the image, both axes logarithmic.

    Args:
        costs: What was measured.
        title: A line above the picture.
        file: Picture to write, `.png`.
    """
    figure = Figure(figsize=(11, 4.6), dpi=120, layout='constrained')
    figure.suptitle(title, fontsize='medium')
    panels = (
        ('Time', 'seconds', lambda cost: cost.seconds),
        ('Memory at the peak, beyond weights and image', 'GiB', lambda cost: cost.memory / GIB),
    )
    sides = sorted({cost.side for cost in costs})
    for axes, (name, unit, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for layout in LAYOUTS:
            mine = [cost for cost in costs if cost.layout == layout]
            power = exponent(mine, value)
            values = [value(cost) for cost in mine]
            axes.plot(sides, values, 'o-', label=f'{layout}: pixels to the {power:.2f}')
        low = min(value(cost) for cost in costs if cost.side == sides[0])
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


def _name(layout: str, side: int) -> str:
    return f'{layout} at {side}'
