"""What position embeddings and features look like at the training size and beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.study.boxes import BoxNetwork
from benchmarks.study.resolution import ARMS, FORMS, GRID, SIDE, TRAINED, network_of
from demo.shapes.scenes import draw_scene
from hiera_mm.network.layout import MASK_UNIT
from hiera_mm.network.position import PositionEmbedding, kind_of, mean_unit

TRAINED_WITH = 'absolute_win'  # its window part is the one that can be seen
SHOWN = [arm for arm in ARMS if arm.trained == TRAINED_WITH and arm.layout == 'global']
SCALES = (1.0, 1.5, 2.0)
STAGES = (0, 1, 2)
SCENE_SEED = 12
INCHES = 1.9


def draw_embeddings(state: Mapping[str, Tensor], file: Path) -> None:
    """Draw one channel of the same trained embedding in every form and at several sizes.

    Args:
        state: Weights trained with absolute win.
        file: Picture to write, `.png`.
    """
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

    The three main directions of the features at the training size become red, green and blue.

    Args:
        state: Weights trained with absolute win.
        file: Picture to write, `.png`.
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
