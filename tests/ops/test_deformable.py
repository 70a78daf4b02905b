"""Deformable convolution and attention beside loops written from their definitions."""

import itertools
import math

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

import hiera_mm.ops

SETTINGS = [
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=1),
    dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2, deform_groups=1),
    dict(stride=1, padding=1, dilation=1, groups=1, deform_groups=4),
    dict(stride=2, padding=1, dilation=1, groups=4, deform_groups=2),
]


def operands(stride, padding, dilation, groups, deform_groups, batch=2, kernel=(3, 2), size=(5, 6)):
    """Random input, offset, mask and weight in float64 that fit each other."""
    features = torch.randn(batch, 4, *size, dtype=torch.float64)
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
    inputs = (tensor.to(device) for tensor in (features, offset, weight))
    result = mmcv.ops.deform_conv2d(*inputs, *settings.values())
    torch.testing.assert_close(result.cpu(), expected)

    expected = plain_deform_conv(features, offset, mask, weight, **settings)
    inputs = [tensor.to(device) for tensor in (features, offset, mask, weight)]
    result = mmcv.ops.modulated_deform_conv2d(*inputs, None, *settings.values())
    torch.testing.assert_close(result.cpu(), expected)
    bias = torch.randn(4, dtype=torch.float64)
    result = mmcv.ops.modulated_deform_conv2d(*inputs, bias.to(device), *settings.values())
    torch.testing.assert_close(result.cpu(), expected + bias[:, None, None])


@pytest.mark.parametrize('settings', SETTINGS)
def test_deform_conv_gradients(device, settings):
    tensors = [tensor.to(device) for tensor in operands(**settings, size=(3, 3))]
    features, offset, mask, weight = (tensor.requires_grad_() for tensor in tensors)

    def modulated(features, offset, mask, weight, bias=None):
        return mmcv.ops.modulated_deform_conv2d(
            features, offset, mask, weight, bias, *settings.values()
        )

    def plain(features, offset, weight):
        return mmcv.ops.deform_conv2d(features, offset, weight, *settings.values())

    assert torch.autograd.gradcheck(plain, (features, offset, weight))
    inputs = tuple(tensor[:1].detach().requires_grad_() for tensor in (features, offset, mask))
    assert torch.autograd.gradcheck(modulated, (*inputs, weight))
    bias = torch.randn(4, dtype=torch.float64, device=device, requires_grad=True)
    if settings is SETTINGS[0]:
        assert torch.autograd.gradcheck(modulated, (*inputs, weight, bias))
        frozen = features.detach(), offset.detach()
        assert torch.autograd.gradcheck(lambda weight: plain(*frozen, weight), weight)


@pytest.mark.parametrize(
    ('layer', 'scale'), [(mmcv.ops.DeformConv2dPack, 1), (mmcv.ops.ModulatedDeformConv2dPack, 0.5)]
)
def test_fresh_layers_are_plain_convolutions(layer, scale):
    layer = layer(4, 6, 3, stride=2, padding=1)  # starts with no shifts, and masks of 1/2
    features = torch.randn(2, 4, 9, 7)
    expected = F.conv2d(features, layer.weight, stride=2, padding=1) * scale
    torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)


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


SHAPES = [(5, 7), (3, 4), (1, 2)]


def attention_operands(channels=3, dtype=torch.float64):
    """Random values, shapes, starts, locations (some outside the map) and weights."""
    shapes = torch.tensor(SHAPES)
    areas = shapes.prod(1)
    value = torch.randn(2, int(areas.sum()), 2, channels, dtype=dtype)
    locations = torch.rand(2, 4, 2, len(SHAPES), 2, 2, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, len(SHAPES), 2, dtype=dtype)
    return value, shapes, areas.cumsum(0) - areas, locations, weights


def attend(*inputs):
    return MultiScaleDeformableAttnFunction.apply(*inputs, 64)


def plain_attention(value, shapes, starts, locations, weights):
    """Multi-scale deformable attention as it is defined, one sample at a time."""
    output = value.new_zeros(*weights.shape[:3], value.size(-1))
    for index in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        b, q, head, level, point = index
        height, width = SHAPES[level]
        keys = value[b, starts[level] : starts[level] + height * width, head]
        x, y = locations[b, q, head, level, point].tolist()
        sample = bilinear(keys.T.unflatten(1, (height, width)), y * height - 0.5, x * width - 0.5)
        output[b, q, head] += sample * weights[tuple(index)]
    return output.flatten(2)


def test_attention_follows_its_definition(device):
    value, shapes, starts, locations, weights = inputs = attention_operands()
    expected = plain_attention(*inputs)
    torch.testing.assert_close(attend(*(x.to(device) for x in inputs)).cpu(), expected)
    # Levels are read at their start, wherever that is.
    padded = torch.cat([torch.full_like(value[:, :5], torch.nan), value], dim=1)
    result = attend(*(x.to(device) for x in (padded, shapes, starts + 5, locations, weights)))
    torch.testing.assert_close(result.cpu(), expected)


def by_convolution(planes, positions):
    """Read planes (N, H, W) with a kernel of one tap, its output's first place moved to (y, x)."""
    offset = positions[..., None, None].expand(-1, -1, *planes.shape[1:])
    kernel = planes.new_ones(1, 1, 1, 1)
    return mmcv.ops.deform_conv2d(
        planes[:, None], offset, kernel, 1, 0, 1, 1, 1, False, len(planes)
    )[:, 0, 0, 0]


def by_modulated_convolution(planes, positions):
    offset = positions[..., None, None].expand(-1, -1, *planes.shape[1:])
    kernel, mask = planes.new_ones(1, 1, 1, 1), torch.ones_like(planes[:, None])
    return mmcv.ops.modulated_deform_conv2d(planes[:, None], offset, mask, kernel)[:, 0, 0, 0]


def by_attention(planes, positions):
    size = torch.tensor(planes.shape[1:], device=planes.device)
    locations = ((positions + 0.5) / size).flip(1).view(-1, 1, 1, 1, 1, 2)
    weights = torch.ones_like(locations[..., 0])
    return attend(
        planes.flatten(1)[..., None, None], size[None], size.new_zeros(1), locations, weights
    )[:, 0, 0]


@pytest.mark.parametrize('read', [by_convolution, by_modulated_convolution, by_attention])
def test_samples_at_the_edge_follow_the_rule_of_the_kernels(device, read):
    """Exactly -1 and exactly the size are outside; on a pixel the slope is that to its right."""
    height, width = 2, 4
    rows, columns = (
        [-3.0, -1, -0.5, 0, 0.25, size - 1, size - 0.5, size, size + 2] for size in (height, width)
    )
    if hiera_mm.ops.source() != 'compiled':  # which may read memory that is not there
        rows, columns = (
            [*places, math.nan, math.inf, -math.inf, 1e30] for places in (rows, columns)
        )
    places = list(itertools.product(rows, columns))
    plane = torch.randn(1, height, width, dtype=torch.float64)
    expected = torch.zeros(3, len(places), dtype=torch.float64)  # values, slopes down and across
    for n, (y, x) in enumerate(places):
        if -1 < y < height and -1 < x < width:
            top, left = math.floor(y), math.floor(x)
            expected[0, n] = bilinear(plane, y, x)
            expected[1, n] = bilinear(plane, top + 1, x) - bilinear(plane, top, x)
            expected[2, n] = bilinear(plane, y, left + 1) - bilinear(plane, y, left)

    positions = torch.tensor(places, dtype=torch.float64, device=device, requires_grad=True)
    planes = plane.repeat(len(places), 1, 1).to(device).requires_grad_()
    values = read(planes, positions)
    values.sum().backward()
    found = torch.cat([values[None], positions.grad.T])
    torch.testing.assert_close(found.detach().cpu(), expected)
    torch.testing.assert_close((planes.grad * planes).sum((1, 2)), values)  # it is linear


def test_attention_gradients(device):
    value, shapes, starts, locations, weights = (x.to(device) for x in attention_operands())
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: attend(value, shapes, starts, locations, weights), inputs
    )


@pytest.mark.gpu
@pytest.mark.parametrize('batch_first', [False, True])
def test_attention_layer_is_the_same_on_a_gpu(batch_first):
    # There it takes the operator, and on the CPU code of mmcv's own.
    value, shapes, starts, _, _ = attention_operands(channels=4, dtype=torch.float32)
    layer = mmcv.ops.MultiScaleDeformableAttention(
        8, num_heads=2, num_levels=3, num_points=2, dropout=0.0, batch_first=batch_first
    )
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    query, value = torch.randn(2, 4, 8), value.flatten(2)
    if not batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    inputs = dict(query=query, value=value, reference_points=torch.rand(2, 4, 3, 2))
    inputs |= dict(spatial_shapes=shapes, level_start_index=starts)
    expected = layer(**inputs)
    result = layer.cuda()(**{name: tensor.cuda() for name, tensor in inputs.items()})
    torch.testing.assert_close(result.cpu(), expected)
