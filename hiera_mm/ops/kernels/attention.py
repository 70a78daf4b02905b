"""Multi-scale deformable attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widen


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Gather, for each query and head, a weighted sum of bilinear samples from all levels.

    Args:
        value: Values of all levels, one after the other, ``(B, keys, heads, C)``.
        value_spatial_shapes: Height and width of each level ``(levels, 2)``.
        value_level_start_index: First key of each level ``(levels,)``.
        sampling_locations: x and y of the samples as parts of width and height,
            ``(B, queries, heads, levels, points, 2)``; outside [0, 1] the values are 0.
        attention_weights: Weights ``(B, queries, heads, levels, points)``.
        im2col_step: Not used.

    Returns:
        Tensor ``(B, queries, heads * C)`` in the dtype of ``value``.
    """
    dtype = value.dtype
    value, locations, weights = widen(value, sampling_locations, attention_weights)
    levels = _levels(value_spatial_shapes, value_level_start_index)
    return _attend(value, levels, locations, weights).to(dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the gradients of values, locations and weights, each in the shape of its tensor."""
    grad, *inputs = widen(grad_output, value, sampling_locations, attention_weights)
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    levels = _levels(value_spatial_shapes, value_level_start_index)
    with torch.enable_grad():
        output = _attend(inputs[0], levels, inputs[1], inputs[2])
    results = (grad_value, grad_sampling_loc, grad_attn_weight)
    for result, gradient in zip(results, torch.autograd.grad(output, inputs, grad), strict=True):
        result.copy_(gradient)


def _levels(spatial_shapes: Tensor, start_index: Tensor) -> list[tuple[int, int, int]]:
    """Height, width and first key of each level."""
    return torch.cat([spatial_shapes, start_index[:, None]], dim=1).tolist()


def _attend(
    value: Tensor, levels: list[tuple[int, int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    # Heads join the batch: (B * heads, C, keys), (B * heads, queries, levels, points, ...).
    value = value.permute(0, 2, 3, 1).flatten(0, 1)
    grids = locations.mul(2).sub(1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)
    total = value.new_zeros(batch * heads, channels, grids.size(1))
    for level, (height, width, start) in enumerate(levels):
        plane = value[..., start : start + height * width].unflatten(-1, (height, width))
        samples = F.grid_sample(plane, grids[:, :, level], align_corners=False)
        total = total + (samples * weights[:, None, :, level]).sum(-1)
    return total.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2).contiguous()
