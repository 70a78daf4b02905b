"""Overlaps of axis-aligned boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import widen

_OVER_UNION = 0  # mmcv's mode number; 1 divides by the area of the first box


def overlaps(boxes1: Tensor, boxes2: Tensor, offset: int = 0, over_union: bool = True) -> Tensor:
    """Intersection of boxes over their union, or over the area of the first.

    Args:
        boxes1: Boxes ``(..., 4)`` as x1, y1, x2, y2.
        boxes2: Boxes of a shape that broadcasts with ``boxes1``.
        offset: Added to widths and heights; 1 for boxes in whole pixels with inclusive ends.
        over_union: Whether to divide by the union instead of the area of ``boxes1``.

    Returns:
        Ratios ``(...)``; NaN where both areas are zero.
    """
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area = (boxes1[..., 2:] - boxes1[..., :2] + offset).prod(-1)
    if over_union:
        area = area + (boxes2[..., 2:] - boxes2[..., :2] + offset).prod(-1) - intersection
    return intersection / area


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ``ious`` with the overlaps of all pairs, or of aligned pairs, of boxes.

    Args:
        bboxes1: Boxes ``(M, 4)``.
        bboxes2: Boxes ``(N, 4)``; N = M when ``aligned``.
        ious: Result, ``(M, N)``, or ``(M,)`` when ``aligned``.
        mode: 0 for intersection over union, 1 for intersection over the area of ``bboxes1``.
        aligned: Whether to compare row by row.
        offset: 0 or 1, added to widths and heights.
    """
    boxes1, boxes2 = widen(bboxes1, bboxes2)
    if not aligned:
        boxes1 = boxes1[:, None]
    ious.copy_(overlaps(boxes1, boxes2, offset, mode == _OVER_UNION))
