"""Feature maps: CARAFE's upsampling, convolution at chosen positions, and PSANet's masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import kernel, widen

_COLLECT = 0  # mmcv's number for the direction of PSANet's masks; 1 distributes


@kernel
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **settings: int,
) -> None:
    """Reassemble features as :func:`carafe_naive_forward` does.

    ``rfeatures`` becomes a copy of ``features``, which the backward pass gets instead of them;
    ``routput`` and ``rmasks`` are not used.
    """
    rfeatures.copy_(features.view_as(rfeatures))
    carafe_naive_forward(features, masks, output, **settings)


@kernel
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **settings: int,
) -> None:
    """Fill ``bottom_grad`` and ``mask_grad``; the scratch tensors ``r..._grad...`` are not used."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, **settings)


@kernel
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsample with a reassembly kernel for each output pixel.

    An output pixel is a weighted sum of the ``kernel_size`` squared features around the input
    pixel it lies in; each group of channels has its own weights. The loops run over the few places
    of the kernel, so that no tensor of all patches is ever made.

    Args:
        features: Features ``(N, C, H, W)``.
        masks: Weights ``(N, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor)``.
        output: Result ``(N, C, H * scale_factor, W * scale_factor)``.
        kernel_size: Side of the reassembly kernel, odd.
        group_size: Number of groups of channels.
        scale_factor: Upsampling factor.
    """
    features, masks = widen(features, masks)
    padded = F.pad(features, [kernel_size // 2] * 4)
    weights = _split(masks, group_size, scale_factor)
    total = _split(features.new_zeros(output.shape), group_size, scale_factor)
    for place, window in enumerate(_windows(padded, kernel_size)):
        total += _spread(window, group_size) * weights[:, :, place, None]
    output.copy_(total.view(output.shape))


@kernel
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill ``bottom_grad`` and ``mask_grad``, in the shapes of ``features`` and ``masks``."""
    grad, features, masks = widen(top_grad, features, masks)
    padding = [kernel_size // 2] * 4
    padded = F.pad(features, padding)
    padded_grad = padded.new_zeros(padded.shape)
    weights = _split(masks, group_size, scale_factor)
    weights_grad = weights.new_empty(weights.shape)
    grad = _split(grad, group_size, scale_factor)
    windows = zip(_windows(padded, kernel_size), _windows(padded_grad, kernel_size), strict=True)
    for place, (window, window_grad) in enumerate(windows):
        weights_grad[:, :, place] = (grad * _spread(window, group_size)).sum(2)
        window_grad += (grad * weights[:, :, place, None]).sum((4, 6)).flatten(1, 2)
    bottom_grad.copy_(F.pad(padded_grad, [-size for size in padding]))
    mask_grad.copy_(weights_grad.view(mask_grad.shape))


def _windows(padded: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """Views ``(N, C, H, W)`` of a padded map, one for each place of the kernel."""
    height, width = padded.size(2) - kernel_size + 1, padded.size(3) - kernel_size + 1
    for y in range(kernel_size):
        for x in range(kernel_size):
            yield padded[:, :, y : y + height, x : x + width]


def _split(tensor: Tensor, groups: int, scale: int) -> Tensor:
    """View a large map as ``(N, groups, channels, H, scale, W, scale)``."""
    tensor = tensor.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    return tensor.unflatten(1, (groups, -1))


def _spread(tensor: Tensor, groups: int) -> Tensor:
    """View a small map as ``(N, groups, channels, H, 1, W, 1)``."""
    return tensor.unflatten(1, (groups, -1)).unsqueeze(-2).unsqueeze(-1)


@kernel
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``col`` with the patches around the chosen positions of a zero-padded map.

    Args:
        im: Features ``(1, C, H, W)``.
        mask_h_idx: Rows of the positions ``(P,)``, int64, in the padded convolution's output.
        mask_w_idx: Columns of the positions ``(P,)``, int64.
        col: Result ``(C * kernel_h * kernel_w, P)``.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        pad_h: Vertical zero padding.
        pad_w: Horizontal zero padding.
    """
    # A kernel's size more at the far ends, so that any position has a whole patch.
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].flatten(0, 2))


@kernel
def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write the column of each position, ``col`` ``(C, P)``, to it in ``im`` ``(1, C, H, W)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col


@kernel
def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, **sizes: int) -> None:
    """Move each weight from its position relative to a pixel to that position in the map.

    Args:
        input: Weights ``(N, h_mask * w_mask, H, W)``: for each pixel a mask around it.
        output: Result ``(N, H * W, H, W)``. To collect, ``output[:, other, y, x]`` is the weight
            at the pixel (y, x) for the other one; to distribute, it is the weight at the other
            for (y, x), so the two results are transposes of each other. 0 outside the masks.
        psa_type: 0 to collect, 1 to distribute.
        num_: Batch size N.
        **sizes: Those of map and mask, the arguments of :func:`_cells`.
    """
    cell, inside = _cells(input.device, **sizes)
    weights = input.flatten(2).gather(1, cell.expand(num_, -1, -1)) * inside
    if psa_type != _COLLECT:
        weights = weights.transpose(1, 2)
    output.copy_(weights.reshape(output.shape))


@kernel
def psamask_backward(
    grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int, **sizes: int
) -> None:
    """Fill ``grad_input``; the other arguments are as in the forward pass."""
    cell, inside = _cells(grad_output.device, **sizes)
    grad = grad_output.flatten(2)
    if psa_type != _COLLECT:
        grad = grad.transpose(1, 2)
    grad_input.zero_()
    grad_input.flatten(2).scatter_add_(1, cell.expand(num_, -1, -1), grad * inside)


def _cells(
    device: torch.device,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> tuple[Tensor, Tensor]:
    """Mask cell in which one pixel sees another, and whether the mask reaches that far.

    Both are ``(H * W, H * W)``, the pixel that is seen first. The other pixel is the cell
    ``(half_h_mask, half_w_mask)`` of its mask.
    """
    y = torch.arange(h_feature, device=device).repeat_interleave(w_feature)
    x = torch.arange(w_feature, device=device).repeat(h_feature)
    row = y[:, None] - y + half_h_mask
    column = x[:, None] - x + half_w_mask
    inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    return (row * w_mask + column).where(inside, 0), inside
