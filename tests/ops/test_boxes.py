"""Overlaps and suppression of boxes beside loops written from their definitions."""

import math

import mmcv.ops
import numpy as np
import pytest
import torch


def overlap(a, b, offset=0, mode='iou'):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    first, second = ((x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b))
    return width * height / (first + second - width * height if mode == 'iou' else first)


def plain_nms(boxes, scores, threshold, offset=0):
    """Non-maximum suppression as it is defined, one pair at a time."""
    boxes, kept = boxes.tolist(), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Soft-NMS as mmcv's loop does it; the order in which it moves boxes decides between ties."""
    boxes, scores = boxes.tolist(), scores.tolist()
    order, done = list(range(len(boxes))), 0
    while done < len(order):
        best = max(range(done, len(order)), key=lambda place: scores[order[place]])
        order[done], order[best] = order[best], order[done]
        place = done + 1
        while place < len(order):
            other = order[place]
            shared = overlap(boxes[order[done]], boxes[other], offset)
            if method == 'gaussian':
                scores[other] *= math.exp(-(shared**2) / sigma)
            elif shared >= threshold:
                scores[other] *= 1 - shared if method == 'linear' else 0
            if scores[other] < min_score:
                order[place] = order[-1]  # the last box takes its place
                order.pop()
            else:
                place += 1
        done += 1
    return order, [scores[i] for i in order]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps_follows_its_definition(random_boxes, device, mode, offset):
    first, second = random_boxes(7), random_boxes(5)
    expected = [[overlap(a, b, offset, mode) for b in second.tolist()] for a in first.tolist()]
    expected = torch.tensor(expected)
    first, second = first.to(device), second.to(device)
    result = mmcv.ops.bbox_overlaps(first, second, mode, offset=offset)
    torch.testing.assert_close(result.cpu(), expected)
    pairs = mmcv.ops.bbox_overlaps(first[:5], second, mode, aligned=True, offset=offset)
    torch.testing.assert_close(pairs.cpu(), expected.diagonal())
    assert mmcv.ops.bbox_overlaps(first[:0], second, mode, offset=offset).shape == (0, 5)


@pytest.mark.usefixtures('stand_in_only')
def test_bbox_overlaps_of_large_boxes_in_half_precision():
    boxes = torch.tensor([[0.0, 0, 1000, 1000], [0, 0, 1000, 500]]).half()  # areas beyond 65504
    result = mmcv.ops.bbox_overlaps(boxes, boxes)
    torch.testing.assert_close(result, torch.tensor([[1, 0.5], [0.5, 1]]).half())


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('count', [1, 2, 60])
def test_nms_follows_its_definition(random_boxes, device, count, threshold, offset):
    boxes, scores = random_boxes(count), torch.rand(count)
    dets, kept = mmcv.ops.nms(boxes.to(device), scores.to(device), threshold, offset)
    assert kept.dtype == torch.int64
    assert kept.device.type == dets.device.type == device.type
    assert kept.tolist() == plain_nms(boxes.double(), scores, threshold, offset)
    torch.testing.assert_close(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[kept.cpu()])


@pytest.mark.parametrize(
    ('boxes', 'threshold', 'offset', 'count'),
    [
        # 10 x 10 pixels, half of them shared: 36 / 126, or 50 / 150 with the last ones.
        ([[0.0, 0, 9, 9], [0, 5, 9, 14]], 0.32, 0, 2),
        ([[0.0, 0, 9, 9], [0, 5, 9, 14]], 0.32, 1, 1),
        # 3 / 5, where an overlap of exactly the threshold stays.
        ([[0.0, 0, 5, 1], [0, 0, 3, 1]], 0.6, 0, 2),
        ([[0.0, 0, 5, 1], [0, 0, 3, 1]], 0.5999, 0, 1),
        ([[1.0, 2, 30, 40]] * 9, 0.5, 0, 1),
        ([[3.0, 1, 3, 1]] * 2, 0.5, 0, 2),  # without area no box overlaps
    ],
)
def test_nms_at_the_threshold(device, boxes, threshold, offset, count):
    boxes = torch.tensor(boxes, device=device)
    scores = torch.full((len(boxes),), 0.5, device=device)
    _, kept = mmcv.ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == list(range(count))


@pytest.mark.parametrize('as_numpy', [False, True])
def test_nms_of_no_boxes(as_numpy):
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    if as_numpy:
        boxes, scores = boxes.numpy(), scores.numpy()
    dets, kept = mmcv.ops.nms(boxes, scores, 0.5)
    assert isinstance(dets, np.ndarray) == as_numpy
    assert (dets.shape, kept.shape) == ((0, 5), (0,))
    assert mmcv.ops.nms_match(torch.zeros(0, 5), 0.5) == []
    dets, kept = mmcv.ops.soft_nms(boxes, scores)
    assert (dets.shape, kept.shape) == ((0, 5), (0,))


def test_nms_filters_by_score_and_number(random_boxes):
    boxes, scores = random_boxes(50), torch.rand(50)
    above = (scores > 0.4).nonzero()[:, 0]
    expected = above[plain_nms(boxes[above].double(), scores[above], 0.3)][:7]
    _, kept = mmcv.ops.nms(boxes, scores, 0.3, score_threshold=0.4, max_num=7)
    assert kept.tolist() == expected.tolist()


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize(
    ('dtype', 'of_scores'),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float64),
        (torch.float32, torch.bfloat16),
    ],
)
def test_nms_takes_other_dtypes(random_boxes, device, dtype, of_scores):
    boxes, scores = random_boxes(40).to(dtype), torch.rand(40).to(of_scores)
    dets, kept = mmcv.ops.nms(boxes.to(device), scores.to(device), 0.4)
    assert dets.dtype == dtype
    assert kept.tolist() == plain_nms(boxes.double(), scores.double(), 0.4)


@pytest.mark.parametrize('split_thr', [10000, 10])
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_batched_nms_keeps_classes_apart(random_boxes, class_agnostic, split_thr):
    boxes, scores, classes = random_boxes(60) + 20, torch.rand(60), torch.arange(60) % 3
    # Above split_thr boxes are suppressed one class after the other, even if class-agnostic.
    if class_agnostic and split_thr > 60:
        groups = [torch.arange(60)]
    else:
        groups = [(classes == c).nonzero()[:, 0] for c in range(3)]
    expected = []
    for group in groups:
        expected += group[plain_nms(boxes[group].double(), scores[group], 0.2)].tolist()
    expected.sort(key=lambda i: -scores[i])
    config = dict(type='nms', iou_threshold=0.2, split_thr=split_thr, max_num=20)
    dets, kept = mmcv.ops.batched_nms(boxes, scores, classes, config, class_agnostic)
    assert kept.tolist() == expected[:20]
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('count', [1, 2, 60])
def test_soft_nms_follows_its_definition(random_boxes, device, count, method, offset):
    boxes, scores = random_boxes(count).round(), torch.rand(count).mul(20).round() / 20  # many ties
    dets, kept = mmcv.ops.soft_nms(
        boxes.to(device), scores.to(device), 0.3, 0.4, 0.05, method, offset
    )
    indices, new_scores = plain_soft_nms(boxes.double(), scores, 0.3, 0.4, 0.05, method, offset)
    assert kept.tolist() == indices
    torch.testing.assert_close(dets[:, :4].cpu(), boxes[indices])
    torch.testing.assert_close(dets[:, 4].cpu(), torch.tensor(new_scores), rtol=1e-4, atol=1e-6)


def test_soft_nms_always_keeps_the_first_box():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 7, 7]])
    dets, kept = mmcv.ops.soft_nms(boxes, torch.tensor([0.01, 0.02]), min_score=0.5)
    assert kept.tolist() == [1]
    assert dets[0, 4].item() == pytest.approx(0.02)


def test_soft_nms_of_boxes_without_area_changes_no_score():
    boxes, scores = torch.tensor([[3.0, 1, 3, 1]]).repeat(3, 1), torch.tensor([0.9, 0.8, 0.7])
    dets, kept = mmcv.ops.soft_nms(boxes, scores)
    assert kept.tolist() == [0, 1, 2]
    torch.testing.assert_close(dets[:, 4], scores)


@pytest.mark.parametrize('count', [1, 60])
def test_nms_match_groups_boxes_with_the_one_that_suppresses_them(random_boxes, count):
    boxes, scores = random_boxes(count), torch.rand(count)
    left = scores.argsort(descending=True).tolist()
    expected = []
    while left:
        group = [i for i in left if i == left[0] or overlap(boxes[left[0]], boxes[i]) >= 0.2]
        expected.append(group)
        left = [i for i in left if i not in group]
    dets = torch.cat([boxes, scores[:, None]], 1)
    for groups in (mmcv.ops.nms_match(dets, 0.2), mmcv.ops.nms_match(dets.numpy(), 0.2)):
        assert [group.tolist() for group in groups] == expected
