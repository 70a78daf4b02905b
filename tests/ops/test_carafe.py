import itertools

import mmcv.ops
import pytest
import torch


def plain_carafe(features, masks, kernel_size, groups, scale):
    """Reassemble features as it is defined, one output pixel at a time."""
    batch, channels, height, width = features.shape
    output = features.new_zeros(batch, channels, height * scale, width * scale)
    for b, c, y, x in itertools.product(*map(range, output.shape)):
        for row, column in itertools.product(range(kernel_size), repeat=2):
            from_y, from_x = (
                y // scale + row - kernel_size // 2,
                x // scale + column - kernel_size // 2,
            )
            if 0 <= from_y < height and 0 <= from_x < width:
                group = c * groups // channels
                place = (group * kernel_size + row) * kernel_size + column
                output[b, c, y, x] += features[b, c, from_y, from_x] * masks[b, place, y, x]
    return output


@pytest.mark.parametrize('operator', [mmcv.ops.carafe, mmcv.ops.carafe_naive])
@pytest.mark.parametrize(('kernel_size', 'groups', 'scale'), [(3, 1, 2), (5, 2, 2), (1, 4, 3)])
def test_carafe_follows_its_definition(device, operator, kernel_size, groups, scale):
    features = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    masks = torch.rand(2, kernel_size**2 * groups, 3 * scale, 5 * scale, dtype=torch.float64)
    result = operator(features.to(device), masks.to(device), kernel_size, groups, scale)
    expected = plain_carafe(features, masks, kernel_size, groups, scale)
    torch.testing.assert_close(result.cpu(), expected)


@pytest.mark.parametrize(('kernel_size', 'groups', 'scale'), [(3, 1, 2), (5, 2, 2), (1, 4, 3)])
def test_carafe_gradients(device, kernel_size, groups, scale):
    shape = (2, kernel_size**2 * groups, scale, 2 * scale)
    inputs = [
        torch.randn(2, 4, 1, 2, dtype=torch.float64, device=device, requires_grad=True),
        torch.rand(shape, dtype=torch.float64, device=device, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(
        lambda features, masks: mmcv.ops.carafe(features, masks, kernel_size, groups, scale),
        inputs,
    )


def test_carafe_upsampler_starts_as_a_mean_and_trains():
    layer = mmcv.ops.CARAFEPack(channels=8, scale_factor=2, up_kernel=3)
    torch.nn.init.zeros_(layer.content_encoder.weight)
    features = torch.randn(2, 8, 4, 6, requires_grad=True)
    mean = torch.nn.functional.avg_pool2d(features, 3, stride=1, padding=1)
    result = layer(features)
    torch.testing.assert_close(result, mean.repeat_interleave(2, 2).repeat_interleave(2, 3))
    result.square().sum().backward()
    assert layer.content_encoder.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures('stand_in_only')
def test_carafe_trains_under_autocast(device):
    layer = mmcv.ops.CARAFEPack(channels=8, scale_factor=2).to(device)
    features = torch.randn(2, 8, 4, 6, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        result = layer(features)
    torch.testing.assert_close(result.float(), layer(features), rtol=0.05, atol=0.05)
    result.float().square().sum().backward()
    assert features.grad.isfinite().all()
