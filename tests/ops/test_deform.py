import itertools
import math
import subprocess
import sys

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F

SETTINGS = [
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2, deform_groups=1),
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=4),
    dict(stride=2, padding=1, dilation=1, groups=4, deform_groups=2),
]


def operands(stride, padding, dilation, groups, deform_groups, batch=2, kernel=(3, 2)):
    """Random input, offset, mask and weight in float64 that fit each other."""
    features = torch.randn(batch, 4, 5, 6, dtype=torch.float64)
    weight = torch.randn(4, 4 // groups, *kernel, dtype=torch.float64)
    height, width = F.conv2d(features, weight, None, stride, padding, dilation, groups).shape[2:]
    samples = deform_groups * kernel[0] * kernel[1]
    offset = torch.randn(batch, 2 * samples, height, width, dtype=torch.float64)
    mask = torch.rand(batch, samples, height, width, dtype=torch.float64)
    return features, offset, mask, weight


def bilinear(planes, y, x):
    """Values of planes (C, H, W) at a position, with zeros around them."""
    value = planes.new_zeros(len(planes))
    for row, column in itertools.product((0, 1), repeat=2):
        row, column = math.floor(y) + row, math.floor(x) + column
        if 0 <= row < planes.size(1) and 0 <= column < planes.size(2):
            value += planes[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def plain_deform_conv(
    features, offset, mask, weight, stride, padding, dilation, groups, deform_groups
):
    """Modulated deformable convolution as it is defined, one output pixel at a time."""
    (sy, sx), (py, px), (dy, dx) = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    rows, columns = weight.shape[2:]
    output = features.new_zeros(len(features), len(weight), *offset.shape[2:])
    per_group = features.size(1) // deform_groups
    for b, i, j in itertools.product(*map(range, (len(output), *output.shape[2:]))):
        patch = features.new_zeros(features.size(1), rows, columns)
        for g, row, column in itertools.product(range(deform_groups), range(rows), range(columns)):
            sample = (g * rows + row) * columns + column
            shift_y, shift_x = offset[b, 2 * sample : 2 * sample + 2, i, j].tolist()
            channels = slice(g * per_group, (g + 1) * per_group)
            y, x = i * sy - py + row * dy + shift_y, j * sx - px + column * dx + shift_x
            value = bilinear(features[b, channels], y, x)
            patch[channels, row, column] = value * mask[b, sample, i, j]
        for c, kernel in enumerate(weight):
            group = c * groups // len(weight)
            width = kernel.size(0)
            output[b, c, i, j] = (kernel * patch[group * width : (group + 1) * width]).sum()
    return output


@pytest.mark.parametrize('settings', SETTINGS)
def test_deform_conv_follows_its_definition(device, settings):
    features, offset, mask, weight = operands(**settings)
    expected = plain_deform_conv(features, offset, torch.ones_like(mask), weight, **settings)
    operator = mmcv.ops.deform_conv2d
    inputs = (tensor.to(device) for tensor in (features, offset, weight))
    torch.testing.assert_close(operator(*inputs, *settings.values()).cpu(), expected)


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('settings', SETTINGS)
def test_modulated_deform_conv_follows_its_definition(device, settings, with_bias):
    features, offset, mask, weight = operands(**settings)
    bias = torch.randn(4, dtype=torch.float64) if with_bias else None
    expected = plain_deform_conv(features, offset, mask, weight, **settings)
    if with_bias:
        expected = expected + bias[:, None, None]
        bias = bias.to(device)
    inputs = (tensor.to(device) for tensor in (features, offset, mask, weight))
    result = mmcv.ops.modulated_deform_conv2d(*inputs, bias, *settings.values())
    torch.testing.assert_close(result.cpu(), expected)


@pytest.mark.parametrize('settings', SETTINGS)
def test_deform_conv_gradients(device, settings):
    features, offset, _, weight = operands(**settings, batch=2)
    inputs = [tensor.to(device).requires_grad_() for tensor in (features, offset, weight)]
    assert torch.autograd.gradcheck(
        lambda *inputs: mmcv.ops.deform_conv2d(*inputs, *settings.values()), inputs
    )


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('settings', SETTINGS)
def test_modulated_deform_conv_gradients(device, settings, with_bias):
    tensors = list(operands(**settings, batch=1))
    if with_bias:
        tensors.append(torch.randn(4, dtype=torch.float64))
    inputs = [tensor.to(device).requires_grad_() for tensor in tensors]

    def run(features, offset, mask, weight, bias=None):
        return mmcv.ops.modulated_deform_conv2d(
            features, offset, mask, weight, bias, *settings.values()
        )

    assert torch.autograd.gradcheck(run, inputs)


def test_deform_conv_gives_a_gradient_to_the_weight_alone():
    features, offset, _, weight = operands(**SETTINGS[0], batch=1)
    weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda weight: mmcv.ops.deform_conv2d(features, offset, weight, 1, 1), weight
    )


def test_deform_conv_takes_a_batch_in_steps():
    features, offset, _, weight = operands(**SETTINGS[0], batch=4)
    at_once = mmcv.ops.deform_conv2d(features, offset, weight, 1, 1)
    in_steps = mmcv.ops.deform_conv2d(features, offset, weight, 1, 1, 1, 1, 1, False, 2)
    torch.testing.assert_close(in_steps, at_once)


@pytest.mark.parametrize(
    ('layer', 'scale'),
    [(mmcv.ops.DeformConv2dPack, 1), (mmcv.ops.ModulatedDeformConv2dPack, 0.5)],
)
def test_fresh_layers_are_plain_convolutions(layer, scale):
    layer = layer(4, 6, 3, stride=2, padding=1)  # starts with no shifts, and masks of 1/2
    features = torch.randn(2, 4, 9, 7)
    expected = F.conv2d(features, layer.weight, stride=2, padding=1) * scale
    torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('layer', [mmcv.ops.DeformConv2dPack, mmcv.ops.ModulatedDeformConv2dPack])
def test_layers_train_under_autocast(device, layer):
    layer = layer(4, 6, 3, padding=1).to(device)
    features = torch.randn(2, 4, 8, 8, device=device, requires_grad=True)
    expected = layer(features)
    with torch.autocast(device.type, torch.bfloat16):
        result = layer(features)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    result.float().square().sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.conv_offset.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('use_deform', [False, True])
def test_switchable_atrous_convolution(use_deform):
    layer = mmcv.ops.SAConv2d(4, 6, 3, padding=1, use_deform=use_deform)
    features = torch.randn(2, 4, 9, 9, requires_grad=True)
    result = layer(features)
    # Starts with switch 1, so with the small dilation alone, no context and no shifts.
    weight = layer._get_weight(layer.weight)
    torch.testing.assert_close(result, F.conv2d(features, weight, padding=1), rtol=1e-4, atol=1e-5)
    result.sum().backward()
    assert features.grad.abs().sum() > 0
    assert layer.switch.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_shifts_that_are_no_numbers_read_nothing(value):
    """In a process of its own: where this fails, the process dies."""
    code = f"""
import torch, hiera_mm
from mmcv.ops import deform_conv2d
x, w = torch.ones(2, 4, 8, 8, requires_grad=True), torch.ones(4, 4, 3, 3, requires_grad=True)
offset = torch.full((2, 18, 8, 8), float('{value}'))
offset[1] = 0
out = deform_conv2d(x, offset, w, 1, 1, 1, 1, 1)
out.sum().backward()
assert (out[0] == 0).all() and out[1].max() == 36, out
assert (x.grad[0] == 0).all() and x.grad[1].max() == 36
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_offsets_larger_than_the_output_are_read_from_their_beginning(device):
    # What mmcv's kernels do, and what DyHead was trained with.
    features, offset, mask, weight = operands(**SETTINGS[0])
    size = offset.shape[-2:]
    larger = [
        torch.cat([maps.flatten(1), torch.randn(2, 3 * maps[0].numel(), dtype=maps.dtype)], dim=1)
        .unflatten(1, (maps.size(1), 2 * size[0], 2 * size[1]))
        .to(device)
        .requires_grad_()
        for maps in (offset, mask)
    ]
    features, weight = features.to(device), weight.to(device)
    operator = mmcv.ops.modulated_deform_conv2d
    found = operator(features, *larger, weight, None, 1, 1)
    exact = [maps.to(device).requires_grad_() for maps in (offset, mask)]
    expected = operator(features, *exact, weight, None, 1, 1)
    torch.testing.assert_close(found, expected)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    for given, reference in zip(larger, exact, strict=True):
        read = reference[0].numel()
        gradient = given.grad.flatten(1)
        torch.testing.assert_close(gradient[:, :read], reference.grad.flatten(1))
        assert not gradient[:, read:].any()
