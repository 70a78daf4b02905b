"""Cases of the other operators on maps: upsampling, masks, and losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.mmcv_ops.cases import Call, Case, Draw, Functions, named

_KERNEL, _SCALE = 5, 2  # of CARAFE, as it is in the toolboxes' necks


def map_cases(*, quick: bool = False) -> Iterator[Case]:
    """Yield the cases, small ones to try whether everything works if `quick`."""
    sizes = (8, 5, 7) if quick else (256, 50, 84)
    inputs = f'{named(sizes)}, kernel {_KERNEL}x{_KERNEL}, scale {_SCALE}'
    for name in ('carafe', 'carafe_naive'):
        for direction in ('forward', 'backward'):
            operator = f'{name}_{direction}'
            yield Case(operator, name, inputs, partial(_carafe, operator, sizes), 1e-4)
    sizes = (8, 10, 12) if quick else (256, 100, 168)
    inputs = f'{named(sizes)}, 3x3 at a tenth of the map'
    yield Case('masked_im2col_forward', 'masked_conv', inputs, partial(_im2col, sizes))
    yield Case('masked_col2im_forward', 'masked_conv', inputs, partial(_col2im, sizes))
    side = 5 if quick else 30
    inputs = f'2 maps of {side}x{side}, masks of {2 * side - 1}x{2 * side - 1}'
    for direction in ('forward', 'backward'):
        operator = f'psamask_{direction}'
        yield Case(operator, 'psamask', inputs, partial(_psamask, direction, side))
    anchors, classes = (50, 4) if quick else (201_600, 80)
    inputs = f'{anchors} anchors, {classes} classes'
    for name in ('sigmoid_focal_loss', 'softmax_focal_loss'):
        for direction in ('forward', 'backward'):
            operator = f'{name}_{direction}'
            yield Case(operator, name, inputs, partial(_focal, operator, anchors, classes), 1e-4)


def _carafe(operator: str, sizes: tuple[int, int, int], draw: Draw) -> Call:
    channels, height, width = sizes
    large = (_SCALE * height, _SCALE * width)
    features = draw.normal(1, *sizes)
    masks = draw.normal(1, _KERNEL**2, *large).softmax(1)
    wide = draw.normal(1, channels, *large)
    settings = dict(kernel_size=_KERNEL, group_size=1, scale_factor=_SCALE)
    if operator == 'carafe_naive_forward':
        return Call((features, masks, torch.zeros_like(wide)), settings, (2,))
    if operator == 'carafe_naive_backward':
        results = torch.zeros_like(features), torch.zeros_like(masks)
        return Call((wide, features, masks, *results), settings, (3, 4))
    # The others want room for rearranged copies.
    if operator == 'carafe_forward':
        rooms = [torch.zeros_like(tensor) for tensor in (features, wide, masks, wide)]
        return Call((features, masks, *rooms), settings, (5,))
    rooms = [torch.zeros_like(tensor) for tensor in (wide, wide, features, masks)]
    results = torch.zeros_like(features), torch.zeros_like(masks)
    args = (wide, torch.zeros_like(features), masks, *rooms, *results)

    def prepare(functions: Functions, args: tuple[Any, ...]) -> None:
        # It gets the features as the forward pass has left them: a compiled one rearranges them.
        rooms = [torch.zeros_like(tensor) for tensor in (wide, masks, wide)]
        functions['carafe_forward'](features, masks, args[1], *rooms, **settings)

    return Call(args, settings, (7, 8), prepare)


def _im2col(sizes: tuple[int, int, int], draw: Draw) -> Call:
    rows, columns = _positions(sizes, draw)
    col = draw.zeros(sizes[0] * 9, len(rows))
    settings = dict(kernel_h=3, kernel_w=3, pad_h=1, pad_w=1)
    return Call((draw.normal(1, *sizes), rows, columns, col), settings, (3,))


def _col2im(sizes: tuple[int, int, int], draw: Draw) -> Call:
    channels, height, width = sizes
    rows, columns = _positions(sizes, draw)
    args = (draw.normal(channels, len(rows)), rows, columns, draw.zeros(1, *sizes))
    return Call(args, dict(height=height, width=width, channels=channels), (3,))


def _positions(sizes: tuple[int, int, int], draw: Draw) -> list[torch.Tensor]:
    chosen = (draw.uniform(*sizes[1:]) < 0.1).nonzero()
    return [chosen[:, axis].contiguous() for axis in (0, 1)]


def _psamask(direction: str, side: int, draw: Draw) -> Call:
    mask = 2 * side - 1
    settings = dict(psa_type=0, num_=2, h_feature=side, w_feature=side, h_mask=mask, w_mask=mask)
    settings |= dict(half_h_mask=(mask - 1) // 2, half_w_mask=(mask - 1) // 2)
    masks, spread = draw.normal(2, mask**2, side, side), draw.normal(2, side**2, side, side)
    given, result = (masks, spread) if direction == 'forward' else (spread, masks)
    return Call((given, torch.zeros_like(result)), settings, (1,))


def _focal(operator: str, anchors: int, classes: int, draw: Draw) -> Call:
    logits, no_weight = draw.normal(anchors, classes), draw.zeros(0)
    settings = dict(gamma=2.0, alpha=0.25)
    if operator.startswith('sigmoid'):
        target = draw.integers(classes + 1, anchors)  # the last is background
        return Call((logits, target, no_weight, torch.zeros_like(logits)), settings, (3,))
    target, each = draw.integers(classes, anchors), draw.zeros(anchors)
    if operator == 'softmax_focal_loss_forward':
        return Call((logits.softmax(1), target, no_weight, each), settings, (3,))
    args = (logits.softmax(1), target, no_weight, each, torch.zeros_like(logits))
    return Call(args, settings, (4,))
