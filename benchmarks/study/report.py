"""Table and plot of the resolution study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.study.resolution import ARMS, LAYOUTS, Arm, Job, Setting

LAYOUT_TITLES = {
    'global': "the release's layout: last two stages global",
    'windows': "SAM 2's layout: windows, one global block",
}
TUNED_TITLES = {False: 'as trained', True: 'after a short training at the larger size'}
LINES = {'absolute': '--', 'absolute_win': '-'}
COLOURS = {
    'absolute': mpl.colormaps['tab10'](3),
    'window_aligned': mpl.colormaps['tab10'](0),
    'absolute_win': mpl.colormaps['tab10'](2),
    'absolute_win_recursive': mpl.colormaps['tab10'](1),
}


def scores_of(
    results: Mapping[Job, float], arm: Arm, scale: float, tuned: bool
) -> tuple[float, float | None]:
    """Return the mean over the seeds, and the sample standard deviation if there are several."""
    values = [
        value
        for job, value in results.items()
        if (job.arm, job.scale, job.tuned) == (arm, scale, tuned)
    ]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def results_table(results: Mapping[Job, float], setting: Setting, tuned: bool) -> str:
    """Return a Markdown table: a row for each arm, a column for each scale."""
    scales = [scale for scale in setting.scales if scale > 1 or not tuned]
    heads = [f'{scale:g}x ({setting.side(scale)})' for scale in scales]
    lines = [
        '| windows | trained with | used as | ' + ' | '.join(heads) + ' |',
        '| --- | --- | --- |' + ' --- |' * len(scales),
    ]
    for arm in ARMS:
        cells = []
        for scale in scales:
            mean, deviation = scores_of(results, arm, scale, tuned)
            cells.append(f'{mean:.1f}' + ('' if deviation is None else f' ± {deviation:.1f}'))
        lines.append(f'| {arm.layout} | {arm.trained} | {arm.form} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw_results(results: Mapping[Job, float], setting: Setting, file: Path) -> None:
    """Draw the scores over the scale: a column for each layout, a row without and with tuning.

    Args:
        results: The scores.
        setting: The size of the study.
        file: Picture to write, `.png`.
    """
    figure = Figure(figsize=(11, 8.4), dpi=120, layout='constrained')
    figure.suptitle(
        f'Trained at {setting.side(1)}x{setting.side(1)}, scored on larger scenes '
        f'(mean and deviation of {setting.seeds} seeds)'
    )
    grid = figure.subplots(2, len(LAYOUTS), sharex=True, sharey='row', squeeze=False)
    for row, tuned in zip(grid, (False, True), strict=True):
        for axes, layout in zip(row, LAYOUTS, strict=True):
            for arm in (arm for arm in ARMS if arm.layout == layout):
                points = [
                    (scale, *scores_of(results, arm, scale, tuned and scale > 1))
                    for scale in setting.scales
                ]
                x, mean, deviation = zip(*points, strict=True)
                axes.errorbar(
                    x,
                    mean,
                    yerr=[d or 0.0 for d in deviation],
                    color=COLOURS[arm.form],
                    linestyle=LINES[arm.trained],
                    marker='o',
                    markersize=4,
                    capsize=2,
                    label=f'{arm.form} (trained: {arm.trained})',
                )
            axes.set_title(f'{LAYOUT_TITLES[layout]}\n{TUNED_TITLES[tuned]}', fontsize='medium')
            axes.set_xticks(setting.scales, [f'{scale:g}x' for scale in setting.scales])
            axes.grid(alpha=0.3)
            axes.spines[['top', 'right']].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel('mean IoU of boxes')
    for axes in grid[-1]:
        axes.set_xlabel('side of the scene')
    grid[0, 0].legend(frameon=False, fontsize='x-small', handlelength=4, markerscale=0.7)
    figure.savefig(file)
