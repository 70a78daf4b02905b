"""CARAFE: upsampling with a reassembly kernel for each output pixel.

An output pixel is a weighted sum of the ``kernel_size`` squared features around the input pixel
it lies in; each group of channels has its own weights. The loops run over the few places of the
kernel, so that no tensor of all patches is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from .precision import widen


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reassemble features.

    Args:
        features: Features ``(N, C, H, W)``.
        masks: Weights ``(N, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor)``.
        rfeatures: Becomes a copy of ``features``, which the backward pass gets instead of them.
        routput: Not used.
        rmasks: Not used.
        output: Result ``(N, C, H * scale_factor, W * scale_factor)``.
        kernel_size: Side of the reassembly kernel, odd.
        group_size: Number of groups of channels.
        scale_factor: Upsampling factor.
    """
    rfeatures.copy_(features.view_as(rfeatures))
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


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
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill ``bottom_grad`` and ``mask_grad``; the scratch tensors ``r...`` are not used."""
    carafe_naive_backward(
        top_grad,
        rfeatures,
        masks,
        bottom_grad,
        mask_grad,
        kernel_size,
        group_size,
        scale_factor,
    )


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reassemble features; the arguments are as for :func:`carafe_forward`."""
    features, masks = widen(features, masks)
    padded = F.pad(features, [kernel_size // 2] * 4)
    weights = _split(masks, group_size, scale_factor)
    total = _split(features.new_zeros(output.shape), group_size, scale_factor)
    for place, window in enumerate(_windows(padded, kernel_size)):
        total += _spread(window, group_size) * weights[:, :, place, None]
    output.copy_(total.view(output.shape))


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
