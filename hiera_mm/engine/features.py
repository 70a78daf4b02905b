"""Drawing what a backbone makes of an image: its features as colours, its attention as heat.

It shows what a pretraining has taught before anything is trained on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress

from .. import weights
from ..backbone import Hiera
from ..errors import ConfigError
from ..network.block import Attention
from ..network.layout import split_windows, to_image
from ..network.trunk import UNIT_PIXELS
from ..network.variants import NUM_STAGES
from .inference import Predictions, find_images, read_image
from .launch import make_folder, to_device

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in RGB
PANEL_INCHES, TITLE_INCHES, DPI = 2.4, 0.3, 120


def draw_features(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    beside: Sequence[str | Path] = (),
    arch: str | Mapping[str, Any] = 'auto',
    prefix: str | None = None,
    size: int = 512,
    point: tuple[float, float] = (0.5, 0.5),
    device: str | None = None,
) -> Predictions:
    """Draw a figure for each image: a row of panels for each checkpoint.

    Args:
        checkpoint: Weights of any family that :mod:`hiera_mm.weights` knows.
        images: Images, or folders of images.
        out: Folder for the figures; made if need be.
        beside: More checkpoints to compare; ``'random'`` for one like the first, without training.
        arch: As for :class:`~hiera_mm.backbone.Hiera`, for all checkpoints.
        prefix: As for :func:`hiera_mm.weights.load`, for the first checkpoint.
        size: Pixels that the longer side of an image is resized to.
        point: Where in the image the attention is looked at: parts of its width and height.
        device: Where to run, e.g. ``'cpu'`` or ``'cuda:0'``; by default a GPU if there is one.

    Returns:
        The figures, and the images that failed.

    Raises:
        ConfigError: If an option or `out` is unusable.
        DataError: If there are no images.
        CheckpointError: If a checkpoint is unusable, or does not tell its architecture.
    """
    if size < 1:
        raise ConfigError(f'--size must be at least 1 pixel, got {size}.')
    if not all(0 <= part <= 1 for part in point):
        raise ConfigError(f'--point takes parts of width and height, from 0 to 1; got {point}.')
    files = [file for source in images for file in find_images(source)]
    folder = make_folder(out)
    first = load_network(checkpoint, arch, prefix)
    networks = {str(checkpoint): first}
    for source in map(str, beside):
        random = source == 'random'
        networks[source] = Hiera(first.variant) if random else load_network(source, arch)
    for network in networks.values():
        to_device(network, device).eval()
    found = Predictions([], {})
    for file in track_iter_progress(files):
        drawing = folder / f'{file.name}.png'  # an ending more, so it replaces no image
        if drawing in found.drawings:  # of the same name in another folder
            drawing = folder / f'{file.parent.name}_{drawing.name}'
        try:
            draw(networks, resize(read_image(file), size), point).savefig(drawing)
            found.drawings.append(drawing)
        except (cv2.error, OSError) as error:
            found.failed[file] = str(error)
    return found


def load_network(
    checkpoint: str | Path, arch: str | Mapping[str, Any], prefix: str | None = None
) -> Hiera:
    """Return the network of a checkpoint; the arguments are those of :func:`draw_features`."""
    names = weights.read(checkpoint, prefix).tensors
    network = Hiera(
        arch,
        rel_pos='global' if any('.rel_pos_' in name for name in names) else None,
        init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint), prefix=prefix),
    )
    network.init_weights()
    return network


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image ``(H, W, C)`` to a longer side of `size`, in whole mask units.

    Every token then lies in the image, at the price of a little distortion.
    """
    units = [side * size / max(image.shape[:2]) / UNIT_PIXELS for side in image.shape[:2]]
    height, width = (max(1, round(number)) * UNIT_PIXELS for number in units)
    return mmcv.imresize(image, (width, height), interpolation='area')


@torch.no_grad()
def look(
    network: Hiera, image: torch.Tensor, x: int, y: int
) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
    """Run a network; return the features of each stage, and the attention in the last two.

    Args:
        network: The network.
        image: A normalised image of whole mask units, ``(1, 3, H, W)``.
        x: Column of the pixel whose token asks.
        y: Its row.

    Returns:
        Maps ``(1, C, H / stride, W / stride)``; and by the index of the last block with global
        attention in stages 3 and 4 (the last block where there is none) a map as
        :func:`attention_of` returns.
    """
    grid = (image.shape[2] // UNIT_PIXELS, image.shape[3] // UNIT_PIXELS)
    ends = list(accumulate(network.variant.depths))
    windows = [block.attn.window for block in network.blocks]
    asked = [max(range(*ends[i : i + 2]), key=lambda b: (windows[b] == 0, b)) for i in (1, 2)]
    features, attention = [], {}
    tokens = network.embed(image, grid)
    for index, block in enumerate(network.blocks):
        if index in asked:
            attention[index] = attention_of(block.attn, block.norm1(tokens), grid, x, y)
        tokens = block(tokens, grid)
        if index in network.stage_after:
            features.append(network.output(index, tokens, grid))
    return features, attention


def attention_of(
    attn: Attention, tokens: torch.Tensor, grid: tuple[int, int], x: int, y: int
) -> torch.Tensor:
    """Return how much the token at a pixel takes of every token, as a mean over the heads.

    Fused kernels keep no attention weights. But what a query takes of a value is the derivative of
    its result by that value, whatever windows, pooling and position biases went into it.

    Args:
        attn: The attention of a block.
        tokens: What it gets, ``(1, units, tokens, C)``.
        grid: Rows and columns of mask units.
        x: Column of the pixel.
        y: Its row.

    Returns:
        A map ``(rows, columns)`` of the tokens; its sum is 1, or less where a window goes beyond
        the image. After query pooling, the token that asks stands for four of them.
    """
    kept = {}
    hooks = [
        attn.qkv.register_forward_hook(lambda _, args, out: kept.update(qkv=out.requires_grad_())),
        attn.proj.register_forward_pre_hook(lambda _, args: kept.update(result=args[0])),
    ]
    with torch.enable_grad():
        try:
            attn(tokens, grid)
        finally:
            for hook in hooks:
                hook.remove()
        units, dim = tokens.shape[1], attn.proj.in_features
        result = to_image(kept['result'].reshape(1, units, -1, dim), grid)
        row, column = (
            pixel * side // (UNIT_PIXELS * number)
            for pixel, side, number in zip((y, x), result.shape[2:], grid, strict=True)
        )
        head = dim // attn.num_heads
        one_of_each_head = result[0, ::head, row, column].sum()
        (gradient,) = torch.autograd.grad(one_of_each_head, kept['qkv'])
    taken = gradient[..., 2 * dim :: head].mean(-1, keepdim=True)
    if attn.window > 1:
        taken = split_windows(taken, grid, attn.window)
    return to_image(taken.reshape(1, units, -1, 1), grid)[0, 0]


def principal_components(feature: torch.Tensor) -> np.ndarray:
    """Return the first three principal components of a map ``(1, C, H, W)``, as ``(H, W, 3)``."""
    vectors = feature[0].permute(1, 2, 0).double().cpu()
    vectors = vectors - vectors.mean((0, 1))
    _, directions = torch.linalg.eigh(torch.einsum('hwi,hwj->ij', vectors, vectors))
    return (vectors @ directions[:, -3:].flip(1)).numpy()


def draw(networks: Mapping[str, Hiera], image: np.ndarray, point: tuple[float, float]) -> Figure:
    """Draw a row of panels for each network.

    Args:
        networks: The networks, by the names that are written beside the rows.
        image: RGB, of whole mask units, ``(H, W, 3)``.
        point: As for :func:`draw_features`.
    """
    height, width = image.shape[:2]
    x, y = (
        min(int(part * side), side - 1) for part, side in zip(point, (width, height), strict=True)
    )
    rows, columns = len(networks), NUM_STAGES + 3
    size = (PANEL_INCHES * columns, (PANEL_INCHES * height / width + TITLE_INCHES) * rows)
    figure = Figure(size, DPI, layout='constrained')
    batch = torch.from_numpy((image - MEAN) / STD).float().permute(2, 0, 1)[None]
    extent = (0, width, height, 0)
    panels = figure.subplots(rows, columns, squeeze=False)
    for row, (name, network) in zip(panels, networks.items(), strict=True):
        device = next(network.parameters()).device
        features, attention = look(network, batch.to(device), x, y)
        row[0].set_ylabel('/'.join(name.split('/')[-2:]), fontsize='small')
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.imshow(image, extent=extent)
        for stage, feature in enumerate(features, 1):
            parts = principal_components(feature)
            low, high = np.percentile(parts, (1, 99), axis=(0, 1))
            colours = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
            row[stage].imshow(colours, extent=extent, interpolation='nearest')
            row[stage].set_title(f'stage {stage}', fontsize='small')
        for axes, (index, taken) in zip(row[-2:], attention.items(), strict=True):
            axes.imshow(taken.cpu().numpy(), 'inferno', alpha=0.7, vmin=0, extent=extent)
            reach = 'in its window' if network.blocks[index].attn.window else 'global'
            axes.set_title(f'attention of block {index}, {reach}', fontsize='small')
        for axes in (row[0], *row[-2:]):
            axes.plot(x + 0.5, y + 0.5, '+', color='cyan', markersize=10)
    return figure
