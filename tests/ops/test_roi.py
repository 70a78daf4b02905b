"""RoIAlign and RoIPool beside loops written from their definitions."""

import itertools
import math

import mmcv.ops
import pytest
import torch
import torchvision

SHAPE = (2, 3, 9, 13)


def bilinear(plane, y, x):
    """Value of a plane (H, W) at a position, nearest border within one pixel, 0 beyond."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = plane[top, left] * (1 - dx) + plane[top, right] * dx
    below = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return above * (1 - dy) + below * dy


def plain_roi_align(features, rois, size, scale, sampling_ratio, pool_mode, aligned):
    """RoIAlign as it is defined, one sample at a time; differentiable."""
    output = features.new_zeros(len(rois), features.size(1), *size)
    shift = 0.5 if aligned else 0.0
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - shift for value in box)
        extents = [y2 - y1, x2 - x1]
        if not aligned:
            extents = [max(extent, 1.0) for extent in extents]
        steps = [extent / bins for extent, bins in zip(extents, size, strict=True)]
        counts = [sampling_ratio or math.ceil(step) for step in steps]
        for c, i, j in itertools.product(*map(range, output.shape[1:])):
            samples = torch.stack(
                [
                    bilinear(
                        features[int(image), c],
                        y1 + (i + (row + 0.5) / counts[0]) * steps[0],
                        x1 + (j + (column + 0.5) / counts[1]) * steps[1],
                    )
                    for row, column in itertools.product(*map(range, counts))
                ]
            )
            output[k, c, i, j] = samples.max() if pool_mode == 'max' else samples.mean()
    return output


def plain_roi_pool(features, rois, size, scale):
    """RoIPool as it is defined, one bin at a time; differentiable."""
    output = features.new_zeros(len(rois), features.size(1), *size)
    height, width = features.shape[2:]
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for i, j in itertools.product(*map(range, size)):
            top = max(math.floor(y1 + i * (y2 - y1) / size[0]), 0)
            bottom = min(math.ceil(y1 + (i + 1) * (y2 - y1) / size[0]), height)
            left = max(math.floor(x1 + j * (x2 - x1) / size[1]), 0)
            right = min(math.ceil(x1 + (j + 1) * (x2 - x1) / size[1]), width)
            if top < bottom and left < right:
                output[k, :, i, j] = features[int(image), :, top:bottom, left:right].amax((1, 2))
    return output


def compare(operator, reference, features, rois, device):
    """Results and gradients of an operator on a device are those of a plain reference."""
    ours = features.detach().to(device).requires_grad_()
    plain = features.detach().double().requires_grad_()
    result, expected = operator(ours, rois.to(device)), reference(plain, rois.double())
    torch.testing.assert_close(result.double().cpu(), expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn(expected.shape)
    result.backward(grad.to(result))
    expected.backward(grad.double())
    torch.testing.assert_close(ours.grad.double().cpu(), plain.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_follows_its_definition(
    random_rois, device, pool_mode, sampling_ratio, aligned, dtype
):
    settings = ((2, 3), 0.25, sampling_ratio, pool_mode, aligned)
    compare(
        mmcv.ops.RoIAlign(*settings),
        lambda features, rois: plain_roi_align(features, rois, *settings),
        torch.randn(SHAPE, dtype=dtype),
        random_rois(8, SHAPE[0], dtype),
        device,
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_roi_pool_follows_its_definition(random_rois, device, dtype):
    compare(
        mmcv.ops.RoIPool((2, 3), 0.25),
        lambda features, rois: plain_roi_pool(features, rois, (2, 3), 0.25),
        torch.randn(SHAPE, dtype=dtype),
        random_rois(20, SHAPE[0], dtype),
        device,
    )


def test_roi_pool_on_whole_pixels_is_that_of_torchvision(random_rois):
    features, rois = torch.randn(SHAPE), random_rois(20, SHAPE[0]).div(10).round()
    result = mmcv.ops.roi_pool(features, rois, 3, 1.0)
    torch.testing.assert_close(result, torchvision.ops.roi_pool(features, rois, 3, 1.0))


@pytest.mark.parametrize(
    'layer',
    [
        mmcv.ops.RoIAlign((2, 3)),
        mmcv.ops.RoIAlign((2, 3), pool_mode='max'),
        mmcv.ops.RoIPool((2, 3)),
    ],
    ids=['align', 'align-max', 'pool'],
)
def test_no_regions_are_no_trouble(layer):
    features = torch.randn(SHAPE, requires_grad=True)
    result = layer(features, torch.zeros(0, 5))
    assert result.shape == (0, 3, 2, 3)
    result.sum().backward()
    assert features.grad.abs().sum() == 0


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_that_is_not_aligned_makes_small_regions_one_feature_large(device, pool_mode):
    settings = ((2, 3), 0.25, 0, pool_mode, False)
    rois = torch.tensor([[0.0, 8, 8, 8, 8], [1, 20, 12, 21, 30], [0, 9, 9, 5, 5]])
    compare(
        mmcv.ops.RoIAlign(*settings),
        lambda features, rois: plain_roi_align(features, rois, *settings),
        torch.randn(SHAPE),
        rois,
        device,
    )


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_of_a_region_without_extent_is_zero(pool_mode):
    features = torch.ones(SHAPE, requires_grad=True)
    rois = torch.tensor([[0.0, 3, 3, 3, 3], [0, 1, 1, 5, 5]])
    result = mmcv.ops.roi_align(features, rois, (2, 2), 1.0, 0, pool_mode, True)
    torch.testing.assert_close(
        result, torch.tensor([0.0, 1])[:, None, None, None].expand(2, 3, 2, 2)
    )
    result[0].sum().backward()
    assert features.grad.abs().sum() == 0


def test_roi_pool_of_a_region_without_extent_is_zero():
    features = torch.ones(SHAPE, requires_grad=True)
    result = mmcv.ops.roi_pool(features, torch.tensor([[0.0, 3.5, 3.5, 2.5, 2.5]]), (2, 2))
    result.sum().backward()
    assert result.abs().sum() == features.grad.abs().sum() == 0


@pytest.mark.usefixtures('stand_in_only')
def test_roi_align_max_gives_the_border_its_gradient():
    # The sample lies at y = -1 exactly, where the compiled operator loses the gradient.
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    result = mmcv.ops.roi_align(
        features, torch.tensor([[0.0, 1, -2, 3, 0]]), 1, 1.0, 1, 'max', False
    )
    result.backward()
    assert result.item() == 1
    assert features.grad.sum() == 1


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    'layer',
    [
        mmcv.ops.RoIAlign(7, 0.25),
        mmcv.ops.RoIAlign(7, 0.25, 0, 'max'),
        mmcv.ops.RoIPool(7, 0.25),
    ],
    ids=['align', 'align-max', 'pool'],
)
def test_half_precision_is_float32_rounded(random_rois, device, layer, dtype):
    features = torch.randn(SHAPE, device=device).to(dtype)
    rois = random_rois(8, SHAPE[0]).to(device, dtype)
    grad = torch.randn(8, SHAPE[1], 7, 7, device=device).to(dtype)
    half, single = features.clone().requires_grad_(), features.float().requires_grad_()
    result, expected = layer(half, rois), layer(single, rois.float())
    result.backward(grad)
    expected.backward(grad.float())
    assert result.dtype == half.grad.dtype == dtype
    assert torch.equal(result, expected.to(dtype))
    torch.testing.assert_close(half.grad, single.grad.to(dtype))


@pytest.mark.usefixtures('stand_in_only')
def test_regions_may_be_more_precise_than_features(random_rois):
    features, rois = torch.randn(SHAPE).bfloat16(), random_rois(8, SHAPE[0])
    result = mmcv.ops.roi_align(features, rois, 7, 0.25)
    expected = mmcv.ops.roi_align(features.float(), rois, 7, 0.25)
    assert torch.equal(result, expected.bfloat16())
