"""Pooling of features inside boxes: RoIAlign and RoIPool.

A region of interest is a row ``(image index, x1, y1, x2, y2)`` in pixels of the input image,
which ``spatial_scale`` brings to the feature map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

from .common import OUTSIDE, kernel, widen

_MAXIMUM = 0  # mmcv's number for the pooling mode; 1 is the average


@kernel
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Sample each bin of each region bilinearly and average the samples, or take the largest.

    Args:
        input: Features ``(B, C, H, W)``.
        rois: Regions ``(K, 5)``.
        output: Result ``(K, C, aligned_height, aligned_width)``.
        argmax_y: For the maximum, becomes the row of the largest sample within its bin, in the
            shape of ``output``; left alone for the average.
        argmax_x: The same for the column.
        aligned_height: Bins from top to bottom.
        aligned_width: Bins from left to right.
        spatial_scale: Feature map size over image size.
        sampling_ratio: Samples along each side of a bin; 0 takes about one for each feature.
        pool_mode: 0 for the maximum, 1 for the average.
        aligned: Whether a feature's position is its centre instead of its corner.
    """
    features, rois = widen(input, rois)
    rois = _harmless(rois, sampling_ratio)
    size = (aligned_height, aligned_width)
    if pool_mode != _MAXIMUM:
        output.copy_(
            torchvision.ops.roi_align(features, rois, size, spatial_scale, sampling_ratio, aligned)
        )
        return
    for group, rows, columns in _same_grids(rois, size, spatial_scale, sampling_ratio, aligned):
        fine_size = (aligned_height * rows, aligned_width * columns)
        samples = torchvision.ops.roi_align(
            features, rois[group], fine_size, spatial_scale, sampling_ratio=1, aligned=aligned
        )
        bins = samples.unflatten(3, (aligned_width, columns)).unflatten(2, (aligned_height, rows))
        largest, position = bins.transpose(3, 4).flatten(4).max(-1)
        output[group] = largest.to(output.dtype)
        argmax_y[group] = (position // columns).to(argmax_y.dtype)
        argmax_x[group] = (position % columns).to(argmax_x.dtype)


@kernel
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``grad_input`` ``(B, C, H, W)``; the other arguments are as in the forward pass."""
    grad, rois = widen(grad_output, rois)
    rois = _harmless(rois, sampling_ratio)
    size = (aligned_height, aligned_width)
    backward = torch.ops.torchvision._roi_align_backward
    if pool_mode != _MAXIMUM:
        grad_input.copy_(
            backward(grad, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned)
        )
        return
    total = torch.zeros_like(grad_input, dtype=grad.dtype)
    for group, rows, columns in _same_grids(rois, size, spatial_scale, sampling_ratio, aligned):
        position = argmax_y[group].long() * columns + argmax_x[group].long()
        bins = grad.new_zeros(*position.shape, rows * columns)
        bins.scatter_(-1, position[..., None], grad[group][..., None])
        samples = bins.unflatten(-1, (rows, columns)).transpose(3, 4).flatten(4).flatten(2, 3)
        fine_size = (aligned_height * rows, aligned_width * columns)
        total += backward(
            samples, rois[group], spatial_scale, *fine_size, *grad_input.shape, 1, aligned
        )
    grad_input.copy_(total)


def _harmless(rois: Tensor, sampling_ratio: int) -> Tensor:
    """Change regions that torchvision on the CPU stops or crashes at; samples stay the same.

    A region with a side at no number, as where a training diverges, has no features. One whose end
    lies before its start has no samples, unless their number is given.
    """
    image, start, end = rois.split((1, 2, 2), dim=1)
    if sampling_ratio <= 0:
        end = torch.maximum(start, end)
    known = rois.isfinite().all(1, keepdim=True)
    return torch.cat([image, start.where(known, OUTSIDE), end.where(known, OUTSIDE)], dim=1)


def _same_grids(
    rois: Tensor, size: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[Tensor, int, int]]:
    """Yield the indices of regions with the same sample rows and columns in each bin, and these.

    The samples of ``rows * columns`` a bin are the bin centres of a grid that is finer by these
    factors, so an average over single samples on the finer grid gives them one by one. Regions
    without extent have no samples and are left out.
    """
    shift = 0.5 if aligned else 0.0
    # Scaled and shifted before the difference, like everyone does: another order rounds
    # differently, and a region that fits exactly would get a row of samples more.
    extent = (rois[:, 3:5] * spatial_scale - shift) - (rois[:, 1:3] * spatial_scale - shift)
    if not aligned:
        extent = extent.clamp(min=1)
    if sampling_ratio > 0:
        grids = torch.full_like(extent, sampling_ratio, dtype=torch.long)
    else:
        grids = (extent / extent.new_tensor(size).flip(0)).ceil().long()
    for columns, rows in grids.unique(dim=0).tolist():
        if rows > 0 and columns > 0:
            yield (grids == grids.new_tensor([columns, rows])).all(1).nonzero()[:, 0], rows, columns


@kernel
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the largest feature in each bin of each region, whose last row and column are included.

    torchvision's operator rounds the scaled region to whole features first, mmcv's does not.
    ``input``, ``rois`` and ``output`` are as for :func:`roi_align_forward`. ``argmax``, int32 and
    of the shape of ``output``, becomes the flat position ``y * W + x`` of each result. In a bin
    without features the result is 0 and its position -1.
    """
    features, rois = widen(input, rois)
    height, width = features.shape[-2:]
    top, bottom = _bin_edges(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, height)
    left, right = _bin_edges(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    images = rois[:, 0].long().tolist()
    tallest = (bottom - top).amax(1).tolist()
    widest = (right - left).amax(1).tolist()
    output.zero_()
    argmax.fill_(-1)
    for k, (image, tall, wide) in enumerate(zip(images, tallest, widest, strict=True)):
        if tall <= 0 or wide <= 0:
            continue
        y = top[k, :, None] + torch.arange(tall, device=top.device)
        x = left[k, :, None] + torch.arange(wide, device=left.device)
        inside = (y < bottom[k, :, None])[:, None, :, None] & (x < right[k, :, None])[:, None]
        # (bins down, bins across, features of a bin); a place outside its bin points anywhere.
        position = (y[:, None, :, None] * width + x[:, None]).where(inside, 0).flatten(2)
        inside = inside.flatten(2)
        values = features[image].flatten(1)[:, position].masked_fill(~inside, -torch.inf)
        largest, where = values.max(-1)
        found = position.expand_as(values).gather(-1, where[..., None])[..., 0]
        full = inside.any(-1)
        output[k] = largest.where(full, 0).to(output.dtype)
        argmax[k] = found.where(full, -1).to(argmax.dtype)


def _bin_edges(
    start: Tensor, end: Tensor, spatial_scale: float, bins: int, limit: int
) -> tuple[Tensor, Tensor]:
    """First and past-the-last feature of each bin ``(K, bins)``, within ``[0, limit]``."""
    start, end = start[:, None] * spatial_scale, (end[:, None] + 1) * spatial_scale
    extent = end - start
    steps = torch.arange(bins, device=start.device)
    first = (steps * (extent / bins) + start).floor()
    last = ((steps + 1) * (extent / bins) + start).ceil()
    last = last.where(extent > 0, first)
    return first.clamp(0, limit).long(), last.clamp(0, limit).long()


@kernel
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add each gradient to the feature that was the largest, in ``grad_input`` ``(B, C, H, W)``."""
    (grad,) = widen(grad_output)
    channels, height, width = grad_input.shape[1:]
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    position = planes[..., None, None] * (height * width) + argmax
    found = argmax >= 0
    total = grad.new_zeros(grad_input.numel()).index_add_(0, position[found], grad[found])
    grad_input.copy_(total.view_as(grad_input))
