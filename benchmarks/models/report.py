"""What was measured of whole detectors: as a table, as CSV, and as a picture."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from benchmarks.models.measuring import Result
from hiera_mm import ops
from hiera_mm.cost.parts import REST
from hiera_mm.cost.report import table, three_digits
from hiera_mm.engine.launch import describe_device
from hiera_mm.trial.batches import BATCH

SMALL = 0.01  # a part that is a smaller share of the longest pass is drawn with the rest
COLOURS = [colour for index, colour in enumerate(mpl.colormaps['Set3'].colors) if index != 8]
GREY = mpl.colormaps['Set3'](8)
OPERATORS = {'compiled': 'compiled operators of mmcv', 'torchvision': 'operators of torchvision'}
LEGEND = (
    'The speed is relative to that of the first config. The parts, in milliseconds, were timed in '
    'passes of their own, which took as long as the last column says, and scaled to `ms`, the '
    'median of whole passes.'
)


def describe(setting: Namespace) -> str:
    """Say in two lines what was timed, and on what."""
    if setting.train:
        what = f'Training iterations of {BATCH} images: losses, gradients and a step of AdamW'
    else:
        height, width = setting.photo
        what = (
            f'Predictions, batch 1, from a JPEG file of {height}x{width} to the result, detectors '
            f'seeing {setting.objects} objects'
        )
    operators = OPERATORS.get(ops.source(), 'no operators of mmcv')
    where = describe_device(setting.device, setting.threads)
    return (
        f'{what}.\n{setting.dtype} on {where}, torch {torch.__version__}, {operators}, '
        f'median of {setting.rounds} rounds.'
    )


def results_table(results: Sequence[Result]) -> str:
    """Return a Markdown table with a row for each config, and what its columns mean.

    The first result is what the others are compared with.
    """
    names = _all_parts(results)
    head = ['config', 'image', 'images/s', 'spread', 'relative', 'detections', 'ms', *names,
            'apart']  # fmt: skip
    rows = []
    for result in results:
        times = [result.times.median, *map(result.parts.get, names),
                 sum(result.parts_apart.values())]  # fmt: skip
        rows.append(
            [
                result.config,
                f'{result.size[0]}x{result.size[1]}',
                three_digits(result.speed),
                f'{result.times.spread:.0%}',
                f'{result.speed / results[0].speed:.2f}',
                '' if result.detections is None else str(result.detections),
                *('' if seconds is None else _ms(seconds) for seconds in times),
            ]
        )
    return f'{table(head, rows, texts=2)}\n\n{LEGEND}'


def csv_rows(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield a row for the total and for each part of each config."""
    for result in results:
        start = dict(
            config=result.config,
            height=result.size[0],
            width=result.size[1],
            images=result.images,
            detections=result.detections,
        )
        apart = result.parts_apart
        yield dict(
            start,
            part='total',
            seconds=result.times.median,
            spread=result.times.spread,
            seconds_apart=sum(apart.values()),
        )
        for name, seconds in result.parts.items():
            yield dict(start, part=name, seconds=seconds, seconds_apart=apart[name])


def draw_results(results: Sequence[Result], title: str, file: Path) -> None:
    """Draw a bar for each config, made of the times of its parts."""
    longest = 1e3 * max(result.times.median for result in results)
    names = [
        name
        for name in _all_parts(results)
        if name != REST and any(1e3 * r.parts.get(name, 0) >= SMALL * longest for r in results)
    ]
    height = 1.7 + 0.55 * len(results) + 0.25 * -(-len(names) // 6)
    figure = Figure(figsize=(11, height), dpi=120, layout='constrained')
    axes = figure.subplots()
    lefts = [0.0] * len(results)
    for index, name in enumerate([*names, REST]):
        if name == REST:  # and all that is too small to be seen
            widths = [1e3 * r.times.median - left for r, left in zip(results, lefts, strict=True)]
        else:
            widths = [1e3 * result.parts.get(name, 0.0) for result in results]
        colour = GREY if name == REST else COLOURS[index % len(COLOURS)]
        bars = axes.barh(range(len(results)), widths, 0.7, lefts, color=colour, label=name)
        shown = [three_digits(w) if w > 0.045 * longest else '' for w in widths]
        axes.bar_label(bars, shown, label_type='center', fontsize='small')
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for row, result in enumerate(results):
        axes.text(lefts[row], row, f'  {three_digits(result.speed)} images/s', va='center')
    axes.set_yticks(range(len(results)), [result.config for result in results])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * longest)
    axes.set_xlabel('milliseconds a pass')
    axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title, fontsize='small')
    figure.legend(loc='outside lower center', ncols=7, frameon=False, fontsize='small')
    figure.savefig(file)


def _all_parts(results: Sequence[Result]) -> list[str]:
    """Return the names of the parts in the order of their first use, the rest last."""
    names = dict.fromkeys(name for result in results for name in result.parts if name != REST)
    return [*names, REST]


def _ms(seconds: float) -> str:
    return three_digits(1e3 * seconds)
