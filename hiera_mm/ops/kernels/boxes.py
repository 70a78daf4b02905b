"""Boxes: overlaps, and non-maximum suppression, plain, soft and with a record of what it did.

A box is a row x1, y1, x2, y2. An ``offset`` of 1 is added to widths and heights: then boxes are in
whole pixels and include their last ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor

from .common import kernel, widen

Array = npt.NDArray[Any]

# mmcv's numbers: what an intersection is divided by, and how soft-NMS lowers a score.
_UNION = 0
_NAIVE, _LINEAR, _GAUSSIAN = range(3)


@kernel
def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ``ious`` with the overlaps of all pairs, or of aligned pairs, of boxes.

    Args:
        bboxes1: Boxes ``(M, 4)``.
        bboxes2: Boxes ``(N, 4)``; N = M when ``aligned``.
        ious: Result, ``(M, N)``, or ``(M,)`` when ``aligned``; NaN where both areas are zero.
        mode: 0 for intersection over union, 1 for intersection over the area of ``bboxes1``.
        aligned: Whether to compare row by row.
        offset: 0 or 1.
    """
    first, second = widen(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == _UNION:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - intersection
    ious.copy_(intersection / area)


@kernel
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the boxes that no better box overlaps by more than the threshold.

    Args:
        boxes: Boxes ``(N, 4)``.
        scores: Scores ``(N,)``.
        iou_threshold: Overlap above which the worse box goes.
        offset: 0 or 1.

    Returns:
        Indices of the kept boxes, int64, best score first.
    """
    boxes, scores = widen(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # torchvision compares with a float64 threshold. An overlap of exactly 0.6 in float32 is a
    # little more than 0.6 in float64, and would wrongly count as above it.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)


@kernel
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapped boxes step by step, and drop those below a minimum.

    Args:
        boxes: Boxes ``(N, 4)``.
        scores: Scores ``(N,)``.
        dets: Result ``(N, 5)``; the first K rows become the kept boxes with their new scores,
            in the order in which they were chosen.
        iou_threshold: Overlap from which the naive and the linear method act.
        sigma: Width of the Gaussian method.
        min_score: Score below which a box is dropped. The very first box always stays.
        method: 0 drops overlapped boxes, 1 multiplies their scores by ``1 - iou``, 2 multiplies
            all scores by ``exp(-iou ** 2 / sigma)``.
        offset: 0 or 1.

    Returns:
        Indices of the K kept boxes, int64, in the order of ``dets``.
    """
    table, scores = _columns(boxes, offset), _array(scores).copy()
    indices = np.arange(len(scores))
    chosen: list[tuple[int, float]] = []
    while len(scores):
        best = scores.argmax()
        for values in (table, scores, indices):
            values[..., [0, best]] = values[..., [best, 0]]
        chosen.append((int(indices[0]), scores[0]))

        iou = _overlaps(table[:, 0], table[:, 1:], offset)
        scores = scores[1:] * _decay(np.nan_to_num(iou), method, iou_threshold, sigma)
        table, indices = table[:, 1:], indices[1:]
        keep = scores >= min_score
        if not keep.all():
            order = _fill_gaps(keep)
            table, scores, indices = table[:, order], scores[order], indices[order]
    kept = torch.tensor([index for index, _ in chosen], dtype=torch.int64, device=dets.device)
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = dets.new_tensor([score for _, score in chosen])
    return kept


def _decay(iou: Array, method: int, iou_threshold: float, sigma: float) -> Array:
    """Factor by which each score shrinks."""
    if method == _GAUSSIAN:
        return np.exp(-(iou**2) / sigma)
    return np.where(iou >= iou_threshold, 1 - iou if method == _LINEAR else 0, 1).astype(iou.dtype)


def _fill_gaps(keep: Array) -> Array:
    """Indices of the kept entries, each gap filled with the last one not yet used.

    mmcv's loop removes an entry by moving the last one into its place. Among equal scores the
    first wins, so this order decides which box that is.
    """
    count = keep.sum()
    order = np.arange(count)
    order[~keep[:count]] = keep[count:].nonzero()[0][::-1] + count
    return order


@kernel
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each kept box with the boxes it suppresses.

    Args:
        dets: Boxes with scores ``(N, 5)``.
        iou_threshold: Overlap from which the worse box goes.

    Returns:
        For each kept box, best first, its index followed by those it suppressed, best first.
    """
    table = _columns(dets[:, :4], 0)
    order = dets[:, 4].argsort(descending=True, stable=True).cpu().numpy()
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        suppressed = _overlaps(table[:, best], table[:, rest], 0) >= iou_threshold
        groups.append([int(best), *rest[suppressed].tolist()])
        order = rest[~suppressed]
    return groups


def _array(tensor: Tensor) -> Array:
    """For loops with a step for each box: an operation of numpy starts sooner than one of torch."""
    return widen(tensor)[0].detach().cpu().numpy()


def _columns(boxes: Tensor, offset: int) -> Array:
    """Boxes ``(N, 4)`` with their areas as an array ``(5, N)``."""
    x1, y1, x2, y2 = _array(boxes).T
    return np.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def _overlaps(box: Array, others: Array, offset: int) -> Array:
    """Intersection of a box ``(5,)`` with others ``(5, N)`` over their union; NaN for no areas."""
    x1, y1, x2, y2, area = box
    width = np.minimum(x2, others[2]) - np.maximum(x1, others[0]) + offset
    height = np.minimum(y2, others[3]) - np.maximum(y1, others[1]) + offset
    intersection = width.clip(0) * height.clip(0)
    with np.errstate(invalid='ignore'):
        return intersection / (area + others[4] - intersection)
