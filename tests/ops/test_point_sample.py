import math

import mmcv.ops
import torch
from mmcv.ops.point_sample import rel_roi_point_to_rel_img_point


def test_point_sample_interpolates_between_pixel_centres(device):
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    points = torch.rand(2, 6, 2, dtype=torch.float64)
    result = mmcv.ops.point_sample(features.to(device), points.to(device))
    for b in range(2):
        for p, (x, y) in enumerate(points[b].tolist()):
            y, x = y * 4 - 0.5, x * 5 - 0.5
            expected = torch.zeros(3, dtype=torch.float64)
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < 4 and 0 <= column < 5:
                        near = (1 - abs(y - row)) * (1 - abs(x - column))
                        expected += features[b, :, row, column] * near
            torch.testing.assert_close(result[b, :, p].cpu(), expected)


def test_point_sample_gradients():
    features = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    points = torch.rand(1, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mmcv.ops.point_sample, (features, points))


def test_simple_roi_align_of_the_whole_map_at_its_own_size_is_the_map():
    features = torch.randn(2, 3, 4, 6)
    rois = torch.tensor([[1.0, 0, 0, 6, 4]])
    result = mmcv.ops.SimpleRoIAlign((4, 6), spatial_scale=1.0)(features, rois)
    torch.testing.assert_close(result[0], features[1])


def test_points_of_a_region_become_points_of_the_image():
    rois = torch.tensor([[0.0, 10, 20, 30, 60]])
    points = torch.tensor([[[0.5, 0.25]]])
    result = rel_roi_point_to_rel_img_point(rois, points, (100, 40))
    torch.testing.assert_close(result, torch.tensor([[[20 / 40, 30 / 100]]]))
