import mmcv.ops
import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 3), (0, 1)), (1, 0), (5, 2)])
def test_masked_conv_is_a_convolution_at_the_mask(device, kernel, padding):
    layer = mmcv.ops.MaskedConv2d(3, 4, kernel, padding=padding)
    features = torch.randn(1, 3, 6, 7)
    mask = (torch.rand(1, 6, 7) > 0.6).float()
    expected = F.conv2d(features, layer.weight, layer.bias, padding=padding) * mask
    with torch.no_grad():
        result = layer.to(device)(features.to(device), mask.to(device))
    torch.testing.assert_close(result.cpu(), expected.detach())


def test_masked_conv_of_an_empty_mask_is_zero():
    layer = mmcv.ops.MaskedConv2d(3, 4, 3, padding=1)
    result = layer(torch.randn(1, 3, 6, 7), torch.zeros(1, 6, 7))
    assert result.shape == (1, 4, 6, 7)
    assert (result == 0).all()


def test_masked_conv_without_a_mask_is_a_convolution():
    layer, features = mmcv.ops.MaskedConv2d(3, 4, 3, padding=1), torch.randn(2, 3, 6, 7)
    expected = F.conv2d(features, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(features), expected)
