"""The attention mask of PSANet: relative positions spread over absolute ones."""

from __future__ import annotations

import torch
from torch import Tensor

_COLLECT = 0  # mmcv's number for the direction; 1 distributes


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Move each weight from its position relative to a pixel to that position in the map.

    Args:
        input: Weights ``(N, h_mask * w_mask, H, W)``: for each pixel a mask around it.
        output: Result ``(N, H * W, H, W)``. To collect, ``output[:, other, y, x]`` is the weight
            at the pixel (y, x) for the other one; to distribute, it is the weight at the other
            for (y, x), so the two results are transposes of each other. 0 outside the masks.
        psa_type: 0 to collect, 1 to distribute.
        num_: Batch size N.
        h_feature: Map height H.
        w_feature: Map width W.
        h_mask: Mask height.
        w_mask: Mask width.
        half_h_mask: Row of the pixel itself in its mask.
        half_w_mask: Column of the pixel itself in its mask.
    """
    shapes = (h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    cell, inside = _cells(*shapes, device=input.device)
    weights = input.flatten(2).gather(1, cell.expand(num_, -1, -1)) * inside
    if psa_type != _COLLECT:
        weights = weights.transpose(1, 2)
    output.copy_(weights.reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fill ``grad_input``; the other arguments are as in the forward pass."""
    shapes = (h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    cell, inside = _cells(*shapes, device=grad_output.device)
    grad = grad_output.flatten(2)
    if psa_type != _COLLECT:
        grad = grad.transpose(1, 2)
    grad_input.zero_()
    grad_input.flatten(2).scatter_add_(1, cell.expand(num_, -1, -1), grad * inside)


def _cells(
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Mask cell in which one pixel sees another, and whether the mask reaches that far.

    Returns:
        Two tensors ``(H * W, H * W)``, the pixel that is seen first.
    """
    y = torch.arange(h_feature, device=device).repeat_interleave(w_feature)
    x = torch.arange(w_feature, device=device).repeat(h_feature)
    row = y[:, None] - y + half_h_mask
    column = x[:, None] - x + half_w_mask
    inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    return (row * w_mask + column).where(inside, 0), inside
