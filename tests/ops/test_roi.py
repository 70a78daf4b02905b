"""RoIAlign and RoIPool beside loops written from their definitions."""

import itertools
import math

import mmcv.ops
import pytest
import torch

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
    rois = random_rois(8, SHAPE[0], dtype)
    if not aligned:  # which makes small regions one feature large
        small = torch.tensor([[0.0, 8, 8, 8, 8], [1, 20, 12, 21, 30], [0, 9, 9, 5, 5]])
        rois = torch.cat([rois, small.to(dtype)])
    compare(
        mmcv.ops.RoIAlign(*settings),
        lambda features, rois: plain_roi_align(features, rois, *settings),
        torch.randn(SHAPE, dtype=dtype),
        rois,
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


NO_REGIONS = {
    'empty': [3.5, 3.5, 2.5, 2.5],
    'narrow': [5.0, 1, 3, 7],  # ends before it starts, in one direction alone
    'outside': [90.0, 90, 99, 99],
    'nan': [math.nan, 1, 2, 3],
    'infinite': [-math.inf, 0, math.inf, 3],
}
POOLS = {
    'align': mmcv.ops.RoIAlign(2),
    'align-max': mmcv.ops.RoIAlign(2, pool_mode='max'),
    'align-unaligned': mmcv.ops.RoIAlign(2, aligned=False),
    'align-sampled': mmcv.ops.RoIAlign(2, sampling_ratio=2),
    'align-max-sampled': mmcv.ops.RoIAlign(2, sampling_ratio=2, pool_mode='max'),
    'pool': mmcv.ops.RoIPool(2),
}


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('pool', POOLS)
@pytest.mark.parametrize('region', NO_REGIONS)
def test_regions_without_features_are_zero(device, region, pool):
    if region in ('empty', 'narrow') and pool.endswith(('unaligned', 'sampled')):
        pytest.skip('mmcv takes samples there')
    features = torch.ones(SHAPE, device=device, requires_grad=True)
    rois = torch.tensor([[0.0, *NO_REGIONS[region]], [0, 1, 1, 5, 5]], device=device)
    none, some = POOLS[pool](features, rois)
    assert not none.any()
    assert (some == 1).all()
    none.sum().backward()
    assert not features.grad.any()


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
