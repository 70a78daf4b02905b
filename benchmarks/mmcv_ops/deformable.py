"""Cases of the operators that sample where they are told to: convolutions and attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.mmcv_ops.cases import IMAGE, Call, Case, Draw, named

_HEADS, _HEAD_CHANNELS, _POINTS = 8, 32, 4
_STRIDES = (8, 16, 32, 64)
_REACH = 0.02  # how far attention looks around, as a share of the image


def deformable_cases(*, quick: bool = False) -> Iterator[Case]:
    """Yield the cases, small ones to try whether everything works if `quick`."""
    sizes = (8, 10, 12) if quick else (256, 100, 168)
    inputs = f'{named(sizes)}, 3x3'
    for direction in ('forward', 'backward_input', 'backward_parameters'):
        operator = f'deform_conv_{direction}'
        yield Case(operator, 'deform_conv', inputs, partial(_deform, direction, sizes), 1e-4)
    for direction in ('forward', 'backward'):
        operator = f'modulated_deform_conv_{direction}'
        make = partial(_modulated, direction, sizes)
        yield Case(operator, 'modulated_deform_conv', inputs, make, 1e-4)
    image = (64, 96) if quick else IMAGE
    for queries, of in ((10 if quick else 300, 'decoder'), (len(_pixels(image)), 'encoder')):
        inputs = f'{queries} queries ({of}), {len(_STRIDES)} levels of {named(image)}'
        for direction in ('forward', 'backward'):
            make = partial(_attention, direction, image, queries)
            yield Case(f'ms_deform_attn_{direction}', 'ms_deform_attn', inputs, make, 1e-4)


def _operands(sizes: tuple[int, int, int], draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Features, a kernel for as many channels, and shifts of a pixel or so."""
    channels, height, width = sizes
    kernel = draw.normal(channels, channels, 3, 3) / (3 * channels**0.5)
    return draw.normal(1, *sizes), kernel, draw.normal(1, 18, height, width)


def _deform(direction: str, sizes: tuple[int, int, int], draw: Draw) -> Call:
    features, weight, offset = _operands(sizes, draw)
    grad, empty = draw.normal(1, *sizes), draw.zeros(0)
    settings = dict(kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1)
    settings |= dict(group=1, deformable_group=1, im2col_step=1)
    if direction == 'forward':
        args = (features, weight, offset, torch.zeros_like(grad), empty, empty)
        return Call(args, settings, (3,))
    if direction == 'backward_input':
        results = torch.zeros_like(features), torch.zeros_like(offset)
        return Call((features, offset, grad, *results, weight, empty), settings, (3, 4))
    args = (features, offset, grad, torch.zeros_like(weight), empty, empty)
    return Call(args, settings | dict(scale=1.0), (3,))


def _modulated(direction: str, sizes: tuple[int, int, int], draw: Draw) -> Call:
    features, weight, offset = _operands(sizes, draw)
    mask, bias, empty = draw.uniform(1, 9, *sizes[1:]), draw.normal(sizes[0]), draw.zeros(0)
    grad = draw.normal(1, *sizes)
    settings = dict(kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, pad_h=1, pad_w=1)
    settings |= dict(dilation_h=1, dilation_w=1, group=1, deformable_group=1, with_bias=True)
    inputs = (features, weight, bias, empty, offset, mask)
    if direction == 'forward':
        return Call((*inputs, torch.zeros_like(grad), empty), settings, (6,))
    results = [torch.zeros_like(tensor) for tensor in (features, weight, bias, offset, mask)]
    return Call((*inputs, empty, *results, grad), settings, (7, 8, 9, 10, 11))


def _attention(direction: str, image: tuple[int, int], queries: int, draw: Draw) -> Call:
    shapes, pixels = torch.tensor(_shapes(image)), _pixels(image)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    value = draw.normal(1, len(pixels), _HEADS, _HEAD_CHANNELS)
    # In the encoder each pixel asks, in the decoder objects do.
    centres = pixels.to(draw.device) if queries == len(pixels) else draw.uniform(queries, 2)
    samples = (_HEADS, len(_STRIDES), _POINTS)
    locations = centres[None, :, None, None, None] + _REACH * draw.normal(1, queries, *samples, 2)
    weights = draw.normal(1, queries, _HEADS, len(_STRIDES) * _POINTS).softmax(-1)
    weights = weights.view(1, queries, *samples)
    inputs = (value, shapes.to(draw.device), starts.to(draw.device), locations, weights)
    if direction == 'forward':
        return Call(inputs, dict(im2col_step=1))
    grad = draw.normal(1, queries, _HEADS * _HEAD_CHANNELS)
    results = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]
    return Call((*inputs, grad, *results), dict(im2col_step=1), (6, 7, 8))


def _shapes(image: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-image[0] // stride), -(-image[1] // stride)) for stride in _STRIDES]


def _pixels(image: tuple[int, int]) -> Tensor:
    """X and y of the pixels of all levels, as shares of width and height."""
    grids = []
    for height, width in _shapes(image):
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        grids.append(torch.cartesian_prod(y, x).flip(1))
    return torch.cat(grids)
