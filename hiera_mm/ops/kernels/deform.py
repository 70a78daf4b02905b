"""Deformable convolution, with and without modulation, on torchvision's operator.

torchvision's layout of offsets, masks and groups is the one of mmcv: both come from the same
source. It splits a batch by itself, so ``im2col_step`` and the scratch buffers are not used.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (defines torch.ops.torchvision)
from torch import Tensor

from .precision import widen

OUTSIDE = -1e6  # pixels


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve at shifted positions.

    Args:
        input: Features ``(B, C_in, H, W)``.
        weight: Kernel ``(C_out, C_in / group, kH, kW)``.
        offset: Shifts ``(B, deformable_group * kH * kW * 2, H_out, W_out)``, pairs of y and x.
        output: Result ``(B, C_out, H_out, W_out)``.
        columns: Not used.
        ones: Not used.
        kW: Kernel width, known from ``weight``.
        kH: Kernel height, known from ``weight``.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Horizontal zero padding.
        padH: Vertical zero padding.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Groups of the convolution.
        deformable_group: Groups of input channels with shifts of their own.
        im2col_step: Not used.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``gradInput`` and ``gradOffset``; the other arguments are as in the forward pass."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad_input, _, grad_offset, _, _ = _backward(
        gradOutput, input, weight, offset, None, None, geometry
    )
    gradInput.copy_(grad_input)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient to ``gradWeight``; the rest is as in the forward pass."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad_weight = _weight_gradient(gradOutput, input, offset, gradWeight.shape, geometry)
    gradWeight.add_(grad_weight.to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
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
        kernel_h: Kernel height, known from ``weight``.
        kernel_w: Kernel width, known from ``weight``.
        stride_h: Vertical stride.
        stride_w: Horizontal stride.
        pad_h: Vertical zero padding.
        pad_w: Horizontal zero padding.
        dilation_h: Vertical dilation.
        dilation_w: Horizontal dilation.
        group: Groups of the convolution.
        deformable_group: Groups of input channels with shifts of their own.
        with_bias: Whether to add ``bias``.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_packed(maps, output.shape[-2:]) for maps in (offset, mask))
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


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
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill the five gradients, that of the bias only ``with_bias``."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    size = grad_output.shape[-2:]
    offset, mask = (_packed(maps, size) for maps in (offset, mask))
    gradients = _backward(
        grad_output, input, weight, offset, mask, bias if with_bias else None, geometry
    )
    if tuple(grad_offset.shape[-2:]) != tuple(size):
        for result in (grad_offset, grad_mask):
            result.zero_()  # what was not read has no influence
    results = [grad_input, grad_weight, _packed(grad_offset, size), _packed(grad_mask, size)]
    if with_bias:
        results.append(grad_bias)
    for result, gradient in zip(results, gradients, strict=False):
        result.copy_(gradient)


def _packed(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(B, C, H, W)`` as maps ``(B, C, *size)``, in the way of mmcv's kernels.

    They read memory from the beginning of each sample on, as if it held maps of the output's size.
    DyHead depends on it: it shifts a coarser level by the offsets of a finer one. The view shares
    its memory with ``maps`` where these are contiguous.
    """
    channels, needed = maps.size(1), maps.size(1) * size[0] * size[1]
    if tuple(maps.shape[-2:]) == tuple(size) or maps[0].numel() < needed:
        return maps  # too small a one is refused by torchvision, where mmcv would read on
    return maps.flatten(1)[:, :needed].unflatten(1, (channels, *size))


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The tensors of torchvision's operator in one dtype, absent ones filled in."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    input, weight, offset, mask, bias = widen(input, weight, offset, mask, bias)
    # Where a training diverges, mmcv takes a shift that is no number for one out of the image, and
    # the loss says NaN in the end. torchvision would read memory that is not there.
    offset = offset.nan_to_num(nan=OUTSIDE, posinf=OUTSIDE, neginf=OUTSIDE)
    return input, weight, offset, mask, bias


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    operands = _operands(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias, in this order."""
    operands = _operands(input, weight, offset, mask, bias)
    grad, *operands = widen(grad_output, *operands)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad, *operands, *geometry, mask is not None
    )


def _weight_gradient(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    shape: torch.Size,
    geometry: tuple[int, ...],
) -> Tensor:
    """The gradient of a weight of a shape, for which torchvision would compute all five.

    A convolution whose weight picks out one tap of one channel after the other returns what the
    taps read. The gradient is the product of that with the gradient of the output.
    """
    grad_output, input, offset = widen(grad_output, input, offset)
    *steps, groups, shift_groups = geometry
    channels, taps = input.size(1), shape[2:].numel()
    pick = torch.eye(taps, dtype=input.dtype, device=input.device)
    pick = pick.view(taps, 1, *shape[2:]).repeat(channels, 1, 1, 1)
    gradient = grad_output.new_zeros(groups, shape[0] // groups, channels // groups * taps)
    for one, its_offset, its_grad in zip(input.split(1), offset.split(1), grad_output, strict=True):
        read = _forward(one, pick, its_offset, None, None, (*steps, channels, shift_groups))
        read = read.view(groups, channels // groups * taps, -1)
        gradient.baddbmm_(its_grad.reshape(groups, shape[0] // groups, -1), read.mT)
    return gradient.view(shape)
