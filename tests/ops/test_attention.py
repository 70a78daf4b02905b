import math

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

SHAPES = [(5, 7), (3, 4), (1, 2)]


def operands(batch=2, heads=2, channels=3, queries=4, points=2, dtype=torch.float64):
    """Random values, shapes, starts, locations (some outside the map) and weights."""
    shapes = torch.tensor(SHAPES)
    areas = shapes.prod(1)
    value = torch.randn(batch, int(areas.sum()), heads, channels, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(SHAPES), points, 2, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(SHAPES), points, dtype=dtype)
    return value, shapes, areas.cumsum(0) - areas, locations, weights


def plain_attention(value, shapes, starts, locations, weights):
    """Multi-scale deformable attention as it is defined, one sample at a time."""
    output = value.new_zeros(*weights.shape[:3], value.size(-1))
    for index in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        b, q, head, level, point = index
        height, width = shapes[level].tolist()
        x, y = locations[b, q, head, level, point].tolist()
        y, x = y * height - 0.5, x * width - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    key = starts[level] + row * width + column
                    near = (1 - abs(y - row)) * (1 - abs(x - column))
                    output[b, q, head] += value[b, key, head] * near * weights[tuple(index)]
    return output.flatten(2)


def test_attention_follows_its_definition(device):
    inputs = operands()
    result = MultiScaleDeformableAttnFunction.apply(*(x.to(device) for x in inputs), 64)
    torch.testing.assert_close(result.cpu(), plain_attention(*inputs))


def test_attention_reads_levels_at_their_start():
    value, shapes, starts, locations, weights = operands()
    expected = plain_attention(value, shapes, starts, locations, weights)
    padded = torch.cat([torch.full_like(value[:, :5], torch.nan), value], dim=1)
    result = MultiScaleDeformableAttnFunction.apply(
        padded, shapes, starts + 5, locations, weights, 64
    )
    torch.testing.assert_close(result, expected)


def test_attention_gradients(device):
    value, shapes, starts, locations, weights = (x.to(device) for x in operands())
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, locations, weights, 64
        ),
        inputs,
    )


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_attention_takes_half_precision(device, dtype):
    value, shapes, starts, locations, weights = (x.to(device) for x in operands())
    value = value.to(dtype).requires_grad_()
    result = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    locations, weights = locations.to(dtype).float(), weights.to(dtype).float()
    expected = multi_scale_deformable_attn_pytorch(value.float(), shapes, locations, weights)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected.to(dtype))
    result.sum().backward()
    assert value.grad.isfinite().all()


@pytest.mark.parametrize('batch_first', [False, True])
def test_attention_layer_on_the_cpu_and_the_operator_agree(device, batch_first):
    value, shapes, starts, _, _ = operands(channels=4, dtype=torch.float32)
    layer = mmcv.ops.MultiScaleDeformableAttention(
        8, num_heads=2, num_levels=3, num_points=2, dropout=0.0, batch_first=batch_first
    )
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    query, value = torch.randn(2, 4, 8), value.flatten(2)
    inputs = dict(query=query, value=value)
    if not batch_first:
        inputs = {name: tensor.transpose(0, 1) for name, tensor in inputs.items()}
    inputs |= dict(
        reference_points=torch.rand(2, 4, 3, 2), spatial_shapes=shapes, level_start_index=starts
    )
    result = layer.to(device)(**{name: tensor.to(device) for name, tensor in inputs.items()})
    if not batch_first:
        result = result.transpose(0, 1)
    layer = layer.cpu()
    value = layer.value_proj(value).unflatten(-1, (2, 4))
    offsets = layer.sampling_offsets(query).view(2, 4, 2, 3, 2, 2)
    weights = layer.attention_weights(query).view(2, 4, 2, 6).softmax(-1).view(2, 4, 2, 3, 2)
    reference = inputs['reference_points'][:, :, None, :, None]
    locations = reference + offsets / shapes.flip(1)[:, None]
    expected = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(result.cpu(), layer.output_proj(expected) + query)


def test_criss_cross_attention_follows_its_definition():
    layer = mmcv.ops.CrissCrossAttention(16).double()
    torch.nn.init.constant_(layer.gamma.scale, 0.7)
    features = torch.randn(2, 16, 3, 4, dtype=torch.float64, requires_grad=True)
    result = layer(features)
    query, key, value = (
        conv(features) for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    for b in range(2):
        for y in range(3):
            for x in range(4):
                cross = [(i, x) for i in range(3) if i != y] + [(y, j) for j in range(4)]
                weights = torch.stack([query[b, :, y, x] @ key[b, :, i, j] for i, j in cross])
                values = torch.stack([value[b, :, i, j] for i, j in cross])
                expected = features[b, :, y, x] + 0.7 * weights.softmax(0) @ values
                torch.testing.assert_close(result[b, :, y, x], expected)
    result.sum().backward()
    assert features.grad.abs().sum() > 0
