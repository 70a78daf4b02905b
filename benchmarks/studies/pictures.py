"""Tables and pictures of the resolution study."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.studies.boxes import BoxNetwork
from benchmarks.studies.resolution import (
    ARMS,
    FORMS,
    GRID,
    LAYOUTS,
    SIDE,
    TRAINED,
    Arm,
    Job,
    network_of,
)
from demo.shapes.scenes import draw_scene
from hiera_mm.cost.report import table
from hiera_mm.network.layout import MASK_UNIT
from hiera_mm.network.position import PositionEmbedding, kind_of, mean_unit

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
TRAINED_WITH = 'absolute_win'  # its window part is the one that can be seen
SHOWN = [arm for arm in ARMS if arm.trained == TRAINED_WITH and arm.layout == 'global']
SCALES = (1.0, 1.5, 2.0)
STAGES = (0, 1, 2)
SCENE_SEED = 12
INCHES = 1.9


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


def results_table(results: Mapping[Job, float], setting: Namespace, tuned: bool) -> str:
    """Return a Markdown table: a row for each arm, a column for each scale."""
    scales = [scale for scale in setting.scales if scale > 1 or not tuned]
    heads = [f'{scale:g}x ({int(SIDE * scale)})' for scale in scales]
    rows = []
    for arm in ARMS:
        cells = []
        for scale in scales:
            mean, deviation = scores_of(results, arm, scale, tuned)
            cells.append(f'{mean:.1f}' + ('' if deviation is None else f' ± {deviation:.1f}'))
        rows.append((arm.layout, arm.trained, arm.form, *cells))
    return table(('windows', 'trained with', 'used as', *heads), rows, texts=3)


def draw_results(results: Mapping[Job, float], setting: Namespace, file: Path) -> None:
    """Draw the scores over the scale: a column for each layout, a row without and with tuning."""
    figure = Figure(figsize=(11, 8.4), dpi=120, layout='constrained')
    figure.suptitle(
        f'Trained at {SIDE}x{SIDE}, scored on larger scenes '
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


def draw_embeddings(state: Mapping[str, Tensor], file: Path) -> None:
    """Draw one channel of an embedding trained as absolute win, in every form, at several sizes."""
    forms = _forms(state)
    channel = _clearest_channel(state)
    figure = Figure(
        figsize=(2.6 * len(SCALES) + 1, 2.6 * len(forms)), dpi=120, layout='constrained'
    )
    figure.suptitle('One channel of the position embedding; lines mark mask units (32 pixels)')
    grid = figure.subplots(len(forms), len(SCALES), squeeze=False)
    limit = max(float(_channel(*form, GRID, channel).abs().max()) for form in forms)
    for row, (form, parameters) in zip(grid, forms, strict=True):
        for axes, scale in zip(row, SCALES, strict=True):
            size = (int(GRID[0] * scale), int(GRID[1] * scale))
            image = _channel(form, parameters, size, channel)
            axes.imshow(image, cmap='RdBu', vmin=-limit, vmax=limit, interpolation='nearest')
            borders = np.arange(MASK_UNIT, size[0], MASK_UNIT) - 0.5
            axes.vlines(borders, -0.5, size[0] - 0.5, color='black', linewidth=0.4)
            axes.hlines(borders, -0.5, size[1] - 0.5, color='black', linewidth=0.4)
            _bare(axes)
            if form is forms[0][0]:
                axes.set_title(f'{scale:g}x: {size[0]}x{size[1]} tokens', fontsize='medium')
        row[0].set_ylabel(kind_of(form))
    figure.savefig(file)


def draw_features(state: Mapping[str, Tensor], file: Path) -> None:
    """Draw the features of one image at two sizes, in every form of its position embedding.

    The three main directions of the features at the training size become red, green and blue. The
    weights are those trained with absolute win.
    """
    large = draw_scene(np.random.default_rng(SCENE_SEED), (2 * SIDE, 2 * SIDE)).image
    small = cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    columns = 2 * len(STAGES) + 1
    figure = Figure(figsize=(INCHES * columns, INCHES * len(SHOWN)), dpi=120, layout='constrained')
    grid = figure.subplots(len(SHOWN), columns, squeeze=False)
    figure.suptitle(
        f'Features of one image at {SIDE}x{SIDE} and at twice that; the same colours mean the same '
        'features'
    )
    for row, arm in zip(grid, SHOWN, strict=True):
        network = network_of(arm, state).eval()
        row[0].imshow(large[..., ::-1])
        row[0].set_ylabel(arm.form, fontsize='small')
        both = [_features(network, image) for image in (small, large)]
        for index, stage in enumerate(STAGES):
            colours = _colours([features[stage] for features in both])
            for place, image in enumerate(colours):
                axes = row[1 + 2 * index + place]
                axes.imshow(image, interpolation='nearest')
                if arm is SHOWN[0]:
                    axes.set_title(f'stage {stage}, {place + 1}x', fontsize='small')
        for axes in row:
            _bare(axes)
    figure.savefig(file)


def _forms(state: Mapping[str, Tensor]) -> list[tuple[PositionEmbedding, dict[str, Tensor]]]:
    """Return every form of the trained embedding with its parameters."""
    forms = []
    for arm in SHOWN:
        backbone = network_of(arm, state).backbone
        parameters = {n: getattr(backbone, n).detach() for n in backbone.position_names}
        forms.append((FORMS[arm.trained, arm.form], parameters))
    return forms


def _clearest_channel(state: Mapping[str, Tensor]) -> int:
    """Return the channel of which the window part makes up the largest share."""
    form = TRAINED[TRAINED_WITH]
    whole = form.resize({name: state[f'backbone.{name}'] for name in form.shapes(1)}, GRID)
    return int((mean_unit(whole).var(dim=(0, 2, 3)) / whole.var(dim=(0, 2, 3))).argmax())


def _channel(
    form: PositionEmbedding, parameters: Mapping[str, Tensor], size: tuple[int, int], channel: int
) -> Tensor:
    return form.resize(parameters, size)[0, channel]


@torch.no_grad()
def _features(network: BoxNetwork, image: np.ndarray) -> list[Tensor]:
    """Return the backbone's features of a BGR image, each ``(H, W, C)``."""
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    return [feature[0].permute(1, 2, 0) for feature in network.features(batch)]


def _colours(features: Sequence[Tensor]) -> list[np.ndarray]:
    """Return maps of features as images, their colours from the first map's main directions."""
    first = features[0].flatten(0, 1)
    mean = first.mean(dim=0)
    directions = torch.linalg.svd(first - mean, full_matrices=False).Vh[:3].T
    low, high = ((first - mean) @ directions).quantile(torch.tensor([0.02, 0.98]), dim=0)
    return [(((f - mean) @ directions - low) / (high - low)).clamp(0, 1).numpy() for f in features]


def _bare(axes: Axes) -> None:
    """Leave nothing but the picture."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
