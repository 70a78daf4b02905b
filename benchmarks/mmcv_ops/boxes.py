"""Cases of the operators on boxes: suppression, overlaps, and pooling inside boxes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.mmcv_ops.cases import IMAGE, Call, Case, Draw
from hiera_mm.ops.kernels import KERNELS

STRIDE = 4  # of the finest level, to which small boxes go
_LARGEST = 112  # side of the boxes on that level
_CLASSES = 80


def box_cases(*, quick: bool = False) -> Iterator[Case]:
    """Yield the cases, small ones to try whether everything works if `quick`."""
    for count in (40, 90) if quick else (1000, 5000):
        yield Case('nms', 'nms', f'{count} boxes', partial(_nms, count))
    many = 120 if quick else 8000
    yield Case('nms', 'nms', f'{many} boxes of {_CLASSES} classes', partial(_classes_nms, many))
    some = 30 if quick else 1000
    # Whatever the boxes are on, mmcv brings them to the CPU for these.
    inputs = f'{some} boxes, on the CPU'
    yield Case('softnms', 'softnms', inputs, lambda _: _softnms(some, Draw('cpu')), 1e-5)
    yield Case('nms_match', 'nms_match', inputs, lambda _: _nms_match(some, Draw('cpu')))
    few = 20 if quick else 100
    inputs, make = f'{2 * some} boxes by {few}', partial(_overlaps, 2 * some, few)
    yield Case('bbox_overlaps', 'bbox_overlaps', inputs, make, 1e-5)
    channels = 8 if quick else 256
    for side in (7, 14):
        inputs = f'{some} RoIs to {side}x{side}, {_map(channels)}'
        sizes = (some, channels, side)
        yield Case('roi_align_forward', 'roi_align', inputs, partial(_align, *sizes), 1e-5)
        yield Case('roi_align_backward', 'roi_align', inputs, partial(_align_back, *sizes), 1e-4)
    inputs, sizes = f'{some} RoIs to 7x7, {_map(channels)}', (some, channels, 7)
    yield Case('roi_pool_forward', 'roi_pool', inputs, partial(_pool, *sizes))
    yield Case('roi_pool_backward', 'roi_pool', inputs, partial(_pool_back, *sizes), 1e-4)


def _map(channels: int) -> str:
    return f'{channels}x{IMAGE[0] // STRIDE}x{IMAGE[1] // STRIDE}'


def _nms(count: int, draw: Draw) -> Call:
    return Call((draw.boxes(count), draw.scores(count)), dict(iou_threshold=0.7, offset=0))


def _classes_nms(count: int, draw: Draw) -> Call:
    """Move the boxes of each class to a place of their own, as `batched_nms` does."""
    classes = draw.integers(_CLASSES, count)
    boxes = draw.boxes(count) + (classes * (max(IMAGE) + 1))[:, None]
    return Call((boxes, draw.scores(count)), dict(iou_threshold=0.5, offset=0))


def _softnms(count: int, draw: Draw) -> Call:
    settings = dict(iou_threshold=0.5, sigma=0.5, min_score=0.05, method=1, offset=0)
    return Call((draw.boxes(count), draw.scores(count), draw.zeros(count, 5)), settings, (2,))


def _nms_match(count: int, draw: Draw) -> Call:
    dets = torch.cat([draw.boxes(count), draw.scores(count)[:, None]], 1)
    return Call((dets,), dict(iou_threshold=0.5))


def _overlaps(first: int, second: int, draw: Draw) -> Call:
    args = (draw.boxes(first), draw.boxes(second), draw.zeros(first, second))
    return Call(args, dict(mode=0, aligned=False, offset=0), (2,))


def _rois(count: int, draw: Draw) -> Tensor:
    boxes = draw.boxes(count, least=16, most=_LARGEST)
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)


def _features(channels: int, draw: Draw) -> Tensor:
    return draw.normal(1, channels, IMAGE[0] // STRIDE, IMAGE[1] // STRIDE)


def _align_settings(side: int) -> dict[str, object]:
    return dict(
        aligned_height=side,
        aligned_width=side,
        spatial_scale=1 / STRIDE,
        sampling_ratio=0,
        pool_mode=1,
        aligned=True,
    )


def _align(count: int, channels: int, side: int, draw: Draw) -> Call:
    output, no_argmax = draw.zeros(count, channels, side, side), draw.zeros(0)
    args = (_features(channels, draw), _rois(count, draw), output, no_argmax, no_argmax)
    return Call(args, _align_settings(side), (2,))


def _align_back(count: int, channels: int, side: int, draw: Draw) -> Call:
    no_argmax, gradient = draw.zeros(0), torch.zeros_like(_features(channels, draw))
    args = (draw.normal(count, channels, side, side), _rois(count, draw))
    return Call((*args, no_argmax, no_argmax, gradient), _align_settings(side), (4,))


def _pool(count: int, channels: int, side: int, draw: Draw) -> Call:
    output = draw.zeros(count, channels, side, side)
    args = (_features(channels, draw), _rois(count, draw), output, output.int())
    settings = dict(pooled_height=side, pooled_width=side, spatial_scale=1 / STRIDE)
    return Call(args, settings, (2, 3))


def _pool_back(count: int, channels: int, side: int, draw: Draw) -> Call:
    forward = _pool(count, channels, side, draw)
    features, rois, output, argmax = forward.args
    KERNELS['roi_pool_forward'](*forward.args, **forward.settings)
    args = (draw.normal(*output.shape), rois, argmax, torch.zeros_like(features))
    return Call(args, forward.settings, (3,))
