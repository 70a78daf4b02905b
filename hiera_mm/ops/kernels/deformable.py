"""Deformable convolution, with and without modulation, and multi-scale deformable attention.

The convolutions stand on torchvision's operator, whose layout of offsets, masks and groups is that
of mmcv: both come from the same source. It splits a batch by itself and knows the kernel's size
from the weight, so ``im2col_step``, the size and the scratch tensors are not used.
"""

from __future__ import annotations

from operator import itemgetter

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  defines torch.ops.torchvision
from torch import Tensor

from .common import OUTSIDE, kernel, widen

# Strides, zero padding, dilation, each first down and then across; groups of the convolution, and
# groups of input channels with shifts of their own: what torchvision takes, by mmcv's names.
_PLAIN = itemgetter(
    'dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group'
)  # fmt: skip
_MODULATED = itemgetter(
    'stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w',
    'group', 'deformable_group',
)  # fmt: skip


@kernel
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **settings: int,
) -> None:
    """Convolve at shifted positions.

    Args:
        input: Features ``(B, C_in, H, W)``.
        weight: Kernel ``(C_out, C_in / group, kH, kW)``.
        offset: Shifts ``(B, deformable_group * kH * kW * 2, H_out, W_out)``, pairs of y and x.
        output: Result ``(B, C_out, H_out, W_out)``.
        columns: Not used.
        ones: Not used.
        **settings: Those of `_PLAIN`.
    """
    output.copy_(_convolve(input, weight, offset, None, None, _PLAIN(settings)))


@kernel
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **settings: int,
) -> None:
    """Fill ``gradInput`` and ``gradOffset``; the other arguments are as in the forward pass."""
    grad_input, _, grad_offset, _, _ = _gradients(
        gradOutput, input, weight, offset, None, None, _PLAIN(settings)
    )
    gradInput.copy_(grad_input)
    gradOffset.copy_(grad_offset)


@kernel
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **settings: int,
) -> None:
    """Add ``scale`` times the gradient to ``gradWeight``; the rest is as in the forward pass.

    torchvision would compute all five gradients for this one. Here a convolution whose weight
    picks out one tap of one channel after the other returns what the taps read; the gradient is
    the product of that with the gradient of the output.
    """
    grad_output, input, offset = widen(gradOutput, input, offset)
    *steps, groups, shift_groups = _PLAIN(settings)
    channels, (filters, _, *size) = input.size(1), gradWeight.shape
    taps = size[0] * size[1]
    pick = torch.eye(taps, dtype=input.dtype, device=input.device)
    pick = pick.view(taps, 1, *size).repeat(channels, 1, 1, 1)
    gradient = grad_output.new_zeros(groups, filters // groups, channels // groups * taps)
    for one, its_offset, its_grad in zip(input.split(1), offset.split(1), grad_output, strict=True):
        read = _convolve(one, pick, its_offset, None, None, (*steps, channels, shift_groups))
        read = read.view(groups, channels // groups * taps, -1)
        gradient.baddbmm_(its_grad.reshape(groups, filters // groups, -1), read.mT)
    gradWeight.add_(gradient.view(gradWeight.shape).to(gradWeight.dtype), alpha=scale)


@kernel
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Convolve at shifted positions with a factor for each sample.

    Args:
        input: Features ``(B, C_in, H, W)``.
        weight: Kernel ``(C_out, C_in / group, kernel_h, kernel_w)``.
        bias: Bias ``(C_out,)``; of any shape without ``with_bias``.
        ones: Not used.
        offset: Shifts ``(B, deformable_group * kernel_h * kernel_w * 2, H_out, W_out)``, pairs of
            y and x. Larger maps are read as :func:`_packed` says.
        mask: Factors ``(B, deformable_group * kernel_h * kernel_w, H_out, W_out)``; as ``offset``.
        output: Result ``(B, C_out, H_out, W_out)``.
        columns: Not used.
        with_bias: Whether to add ``bias``.
        **settings: Those of `_MODULATED`.
    """
    offset, mask = (_packed(maps, output.shape[-2:]) for maps in (offset, mask))
    bias = bias if with_bias else None
    output.copy_(_convolve(input, weight, offset, mask, bias, _MODULATED(settings)))


@kernel
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Fill the five gradients, that of the bias only ``with_bias``."""
    size = grad_output.shape[-2:]
    offset, mask = (_packed(maps, size) for maps in (offset, mask))
    bias = bias if with_bias else None
    gradients = _gradients(grad_output, input, weight, offset, mask, bias, _MODULATED(settings))
    # mmcv hands over zeros, which is the gradient of what was not read.
    results = [grad_input, grad_weight, _packed(grad_offset, size), _packed(grad_mask, size)]
    if with_bias:
        results.append(grad_bias)
    for result, gradient in zip(results, gradients, strict=False):
        result.copy_(gradient)


def _packed(maps: Tensor, size: torch.Size) -> Tensor:
    """Return maps ``(B, C, H, W)`` as maps ``(B, C, *size)``, in the way of mmcv's kernels.

    They read memory from the beginning of each sample on, as if it held maps of the output's size.
    DyHead depends on it: it shifts a coarser level by the offsets of a finer one. The view shares
    its memory with ``maps`` where these are contiguous.
    """
    channels, needed = maps.size(1), maps.size(1) * size.numel()
    if maps.shape[-2:] == size or maps[0].numel() < needed:
        return maps  # too small a one is refused by torchvision, where mmcv would read on
    return maps.flatten(1)[:, :needed].unflatten(1, (channels, *size))


def _convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    operands = _operands(input, weight, offset, mask, bias, geometry)
    return torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None)


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias, in this order."""
    operands = widen(grad_output, *_operands(input, weight, offset, mask, bias, geometry))
    return torch.ops.torchvision._deform_conv2d_backward(*operands, *geometry, mask is not None)


def _operands(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """The tensors of torchvision's operator in one dtype, absent ones filled in."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    input, weight, offset, mask, bias = widen(input, weight, offset, mask, bias)
    # To mmcv a tap at exactly -1 is outside, and so is one at no number, where a training diverges.
    # torchvision gives the first a gradient and reads memory that is not there for the second.
    position = offset.unflatten(1, (geometry[-1], -1)) + _taps(offset, weight, geometry)
    outside = ~((position > -1) & position.isfinite())
    offset = offset.masked_fill(outside.flatten(1, 2), OUTSIDE)
    return input, weight, offset, mask, bias


def _taps(offset: Tensor, weight: Tensor, geometry: tuple[int, ...]) -> Tensor:
    """Positions of the taps before their shift, ``(kH * kW * 2, H_out, W_out)``, y before x."""
    device, steps = offset.device, zip(*(geometry[i : i + 2] for i in (0, 2, 4)), strict=True)
    y, x = (
        torch.arange(weight.size(axis), device=device)[:, None] * dilation
        - pad
        + torch.arange(offset.size(axis), device=device) * stride
        for axis, (stride, pad, dilation) in enumerate(steps, 2)
    )
    y, x = torch.broadcast_tensors(y[:, None, :, None], x[:, None])
    return torch.stack([y, x], dim=2).flatten(0, 2)


@kernel
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
    operands = widen(value, sampling_locations, attention_weights)
    return _attend(value_spatial_shapes, value_level_start_index, *operands).to(value.dtype)


@kernel
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
    grad, *operands = widen(grad_output, value, sampling_locations, attention_weights)
    operands = [tensor.detach().requires_grad_() for tensor in operands]
    with torch.enable_grad():
        output = _attend(value_spatial_shapes, value_level_start_index, *operands)
    results = (grad_value, grad_sampling_loc, grad_attn_weight)
    for result, gradient in zip(results, torch.autograd.grad(output, operands, grad), strict=True):
        result.copy_(gradient)


def _attend(
    shapes: Tensor, starts: Tensor, value: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    # The rule of mmcv's kernel. `grid_sample` gives a sample at exactly -1 a gradient and makes one
    # at no number NaN. A location of -2 is outside of every map.
    sizes = shapes.flip(1)[:, None]
    positions = locations * sizes - 0.5
    inside = ((positions > -1) & (positions < sizes)).all(-1, keepdim=True)
    locations = locations.masked_fill(~inside, -2)
    batch, _, heads, channels = value.shape
    # Heads join the batch: (B * heads, C, keys), (B * heads, queries, levels, points, ...).
    value = value.permute(0, 2, 3, 1).flatten(0, 1)
    grids = locations.mul(2).sub(1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)
    total = value.new_zeros(batch * heads, channels, grids.size(1))
    levels = torch.cat([shapes, starts[:, None]], dim=1).tolist()
    for level, (height, width, start) in enumerate(levels):
        plane = value[..., start : start + height * width].unflatten(-1, (height, width))
        samples = F.grid_sample(plane, grids[:, :, level], align_corners=False)
        total = total + (samples * weights[:, None, :, level]).sum(-1)
    return total.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2).contiguous()
