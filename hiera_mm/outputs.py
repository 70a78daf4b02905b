"""Features in the shapes that a consumer was made for: other strides, other channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Outputs(nn.Module):
    """Turns a network's features into maps of given strides and channels.

    Heads are often written for a backbone of other strides: a dilated ResNet gives its last stage
    at stride 8, a plain ViT all of them at 16. Features resized to these strides cost next to
    nothing and leave the head's own resolution, and its cost, as they were.

    Args:
        channels: Channels of each feature that comes in.
        out_channels: Channels that each is projected to by a 1x1 convolution; ``None`` to leave
            them.
        out_strides: Pixels for each step of each map that goes out; ``None`` to leave them.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: Sequence[int] | None,
        out_strides: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.out_strides = out_strides
        self.projections = nn.ModuleList()
        for dim, dim_out in zip(channels, out_channels or (), strict=out_channels is not None):
            projection = nn.Conv2d(dim, dim_out, kernel_size=1)
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
            self.projections.append(projection)

    def forward(
        self, features: Sequence[torch.Tensor], image_size: tuple[int, int]
    ) -> tuple[torch.Tensor, ...]:
        """Turn each feature ``(B, channels, H, W)`` into one of the strides and channels asked for.

        Args:
            features: The features.
            image_size: Height and width of the image they were made of.

        Returns:
            For each, ``(B, out_channels, ceil(height / stride), ceil(width / stride))``.
        """
        if self.projections:  # before resizing: mostly there are fewer places then
            features = [p(f) for p, f in zip(self.projections, features, strict=True)]
        if self.out_strides is None:
            return tuple(features)
        return tuple(
            _resize(feature, tuple(-(-side // stride) for side in image_size))
            for feature, stride in zip(features, self.out_strides, strict=True)
        )


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a map: bilinearly to a larger size, by averaging to a smaller one."""
    if x.shape[-2:] == size:
        return x
    if size[0] < x.shape[-2]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
