"""Non-maximum suppression: plain, soft, and with a record of who suppressed whom."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from .boxes import overlaps
from .precision import widen

_NAIVE, _LINEAR, _GAUSSIAN = range(3)  # mmcv's numbers for the ways soft-NMS lowers a score


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the boxes that no better box overlaps by more than the threshold.

    Args:
        boxes: Boxes ``(N, 4)`` as x1, y1, x2, y2.
        scores: Scores ``(N,)``.
        iou_threshold: Overlap above which the worse box goes.
        offset: 0 or 1, added to widths and heights.

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
        boxes: Boxes ``(N, 4)`` as x1, y1, x2, y2.
        scores: Scores ``(N,)``.
        dets: Result ``(N, 5)``; the first K rows become the kept boxes with their new scores,
            in the order in which they were chosen.
        iou_threshold: Overlap from which the naive and the linear method act.
        sigma: Width of the Gaussian method.
        min_score: Score below which a box is dropped. The very first box always stays.
        method: 0 drops overlapped boxes, 1 multiplies their scores by ``1 - iou``, 2 multiplies
            all scores by ``exp(-iou ** 2 / sigma)``.
        offset: 0 or 1, added to widths and heights.

    Returns:
        Indices of the K kept boxes, int64, in the order of ``dets``.
    """
    boxes, scores = widen(boxes, scores)
    rows = torch.cat([boxes, scores[:, None]], dim=1)
    indices = torch.arange(len(rows), device=rows.device)
    chosen = 0
    while chosen < len(rows):
        swap = torch.stack([rows[chosen:, 4].argmax() + chosen, indices.new_tensor(chosen)])
        rows[swap.flip(0)], indices[swap.flip(0)] = rows[swap], indices[swap]
        best, rest = rows[chosen], rows[chosen + 1 :]
        dets[chosen] = best
        chosen += 1

        iou = overlaps(best[:4], rest[:, :4], offset).nan_to_num(0)  # boxes without area
        rest[:, 4] *= _decay(iou, method, iou_threshold, sigma)
        order = _fill_gaps(rest[:, 4] >= min_score) + chosen
        rows = torch.cat([rows[:chosen], rows[order]])
        indices = torch.cat([indices[:chosen], indices[order]])
    return indices


def _decay(iou: Tensor, method: int, iou_threshold: float, sigma: float) -> Tensor:
    """Factor by which each score shrinks."""
    if method == _GAUSSIAN:
        return torch.exp(-(iou**2) / sigma)
    lowered = 1 - iou if method == _LINEAR else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, lowered, 1.0)


def _fill_gaps(keep: Tensor) -> Tensor:
    """Indices of the kept entries, each gap filled with the last one not yet used.

    mmcv's loop removes an entry by moving the last one into its place. Among equal scores the
    first wins, so this order decides which box that is.
    """
    count = int(keep.sum())
    order = torch.arange(count, device=keep.device)
    order[~keep[:count]] = keep[count:].nonzero().flip(0)[:, 0] + count
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group each kept box with the boxes it suppresses.

    Args:
        dets: Boxes with scores ``(N, 5)``.
        iou_threshold: Overlap from which the worse box goes.

    Returns:
        For each kept box, best first, its index followed by those it suppressed, best first.
    """
    (dets,) = widen(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        suppressed = overlaps(dets[best, :4], dets[rest, :4]) >= iou_threshold
        groups.append([int(best), *rest[suppressed].tolist()])
        order = rest[~suppressed]
    return groups
