"""CARAFE, convolution at a mask and PSANet's masks beside loops written from their definitions."""

import itertools

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F


def plain_carafe(features, masks, kernel_size, groups, scale):
    """Reassemble features as it is defined, one output pixel at a time."""
    batch, channels, height, width = features.shape
    output = features.new_zeros(batch, channels, height * scale, width * scale)
    for b, c, y, x in itertools.product(*map(range, output.shape)):
        for row, column in itertools.product(range(kernel_size), repeat=2):
            from_y = y // scale + row - kernel_size // 2
            from_x = x // scale + column - kernel_size // 2
            if 0 <= from_y < height and 0 <= from_x < width:
                group = c * groups // channels
                place = (group * kernel_size + row) * kernel_size + column
                output[b, c, y, x] += features[b, c, from_y, from_x] * masks[b, place, y, x]
    return output


@pytest.mark.parametrize(('kernel_size', 'groups', 'scale'), [(3, 1, 2), (5, 2, 2), (1, 4, 3)])
def test_carafe_follows_its_definition(device, kernel_size, groups, scale):
    features = torch.randn(1, 4, 3, 5, dtype=torch.float64)
    masks = torch.rand(1, kernel_size**2 * groups, 3 * scale, 5 * scale, dtype=torch.float64)
    expected = plain_carafe(features, masks, kernel_size, groups, scale)
    for operator in (mmcv.ops.carafe, mmcv.ops.carafe_naive):
        result = operator(features.to(device), masks.to(device), kernel_size, groups, scale)
        torch.testing.assert_close(result.cpu(), expected)

    inputs = [
        maps.to(device).requires_grad_()
        for maps in (features[..., :1, :2], masks[..., :scale, : 2 * scale])
    ]
    assert torch.autograd.gradcheck(
        lambda features, masks: mmcv.ops.carafe(features, masks, kernel_size, groups, scale), inputs
    )


def test_carafe_upsampler_starts_as_a_mean_and_trains():
    layer = mmcv.ops.CARAFEPack(channels=8, scale_factor=2, up_kernel=3)
    torch.nn.init.zeros_(layer.content_encoder.weight)
    features = torch.randn(2, 8, 4, 6, requires_grad=True)
    mean = F.avg_pool2d(features, 3, stride=1, padding=1)
    result = layer(features)
    torch.testing.assert_close(result, mean.repeat_interleave(2, 2).repeat_interleave(2, 3))
    result.square().sum().backward()
    assert layer.content_encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 3), (0, 1)), (1, 0), (5, 2)])
def test_masked_conv_is_a_convolution_at_the_mask(device, kernel, padding):
    layer = mmcv.ops.MaskedConv2d(3, 4, kernel, padding=padding)
    features = torch.randn(1, 3, 6, 7)
    mask = (torch.rand(1, 6, 7) > 0.6).float()
    expected = F.conv2d(features, layer.weight, layer.bias, padding=padding).detach()
    layer, features = layer.to(device), features.to(device)
    with torch.no_grad():
        result, everywhere = layer(features, mask.to(device)), layer(features)
        nowhere = layer(features, torch.zeros_like(mask, device=device))
    torch.testing.assert_close(result.cpu(), expected * mask)
    torch.testing.assert_close(everywhere.cpu(), expected)
    assert torch.equal(nowhere.cpu(), torch.zeros(1, 4, 6, 7))


def plain_psa_mask(masks, collect, mask_size):
    """Spread the mask around each pixel over the whole map, one weight at a time."""
    batch, _, height, width = masks.shape
    rows, columns = mask_size
    output = masks.new_zeros(batch, height, width, height, width)
    for y, x, row, column in itertools.product(*map(range, (height, width, rows, columns))):
        other_y, other_x = y + row - (rows - 1) // 2, x + column - (columns - 1) // 2
        if 0 <= other_y < height and 0 <= other_x < width:
            weight = masks[:, row * columns + column, y, x]
            if collect:
                output[:, other_y, other_x, y, x] = weight
            else:
                output[:, y, x, other_y, other_x] = weight
    return output.view(batch, height * width, height, width)


@pytest.mark.parametrize('mask_size', [(3, 5), (7, 9), (1, 1), (2, 4)])
@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_follows_its_definition(device, psa_type, mask_size):
    masks = torch.randn(2, mask_size[0] * mask_size[1], 4, 5)
    result = mmcv.ops.PSAMask(psa_type, mask_size)(masks.to(device))
    assert torch.equal(result.cpu(), plain_psa_mask(masks, psa_type == 'collect', mask_size))


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_gradients(device, psa_type):
    masks = torch.randn(2, 6, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(mmcv.ops.PSAMask(psa_type, (2, 3)), masks)


def test_what_needs_no_kernel_works_too():
    features = torch.randn(1, 16, 3, 4)
    corner = torch.tensor([[[0.5 / 4, 0.5 / 3]]])  # the centre of the first pixel, x first
    torch.testing.assert_close(
        mmcv.ops.point_sample(features, corner)[..., 0], features[:, :, 0, 0]
    )
    torch.testing.assert_close(mmcv.ops.CrissCrossAttention(16)(features), features)  # gamma is 0
