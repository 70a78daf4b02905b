import mmcv.ops
import pytest
import torch
import torchvision


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps_follows_its_definition(random_boxes, device, mode, offset):
    first, second = random_boxes(7), random_boxes(5)
    result = mmcv.ops.bbox_overlaps(first.to(device), second.to(device), mode, offset=offset)
    expected = torch.zeros(7, 5)
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            width = min(a[2], b[2]) - max(a[0], b[0]) + offset
            height = min(a[3], b[3]) - max(a[1], b[1]) + offset
            shared = max(width, 0) * max(height, 0)
            area = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
            if mode == 'iou':
                area += (b[2] - b[0] + offset) * (b[3] - b[1] + offset) - shared
            expected[i, j] = shared / area
    torch.testing.assert_close(result.cpu(), expected)


def test_bbox_overlaps_of_aligned_pairs(random_boxes):
    first, second = random_boxes(9), random_boxes(9)
    result = mmcv.ops.bbox_overlaps(first, second, aligned=True)
    torch.testing.assert_close(result, torchvision.ops.box_iou(first, second).diagonal())


def test_bbox_overlaps_of_no_boxes(random_boxes):
    assert mmcv.ops.bbox_overlaps(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)


@pytest.mark.usefixtures('stand_in_only')
def test_bbox_overlaps_of_large_boxes_in_half_precision():
    boxes = torch.tensor([[0.0, 0, 1000, 1000], [0, 0, 1000, 500]]).half()  # areas beyond 65504
    result = mmcv.ops.bbox_overlaps(boxes, boxes)
    torch.testing.assert_close(result, torch.tensor([[1, 0.5], [0.5, 1]]).half())
