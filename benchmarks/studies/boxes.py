"""A small task that cannot be solved without a sense of place: the box of the object at each point.

Attention alone does not know where a token lies, so how far an object reaches to either side has to
come from the position embedding. (What class a pixel has does not: on `shapes`, colour and texture
tell, and no embedding makes a difference.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.shapes.scenes import Scene, draw_scene
from hiera_mm.network import HieraTrunk, Variant
from hiera_mm.network.position import PositionEmbedding
from hiera_mm.network.trunk import PATCH_STRIDE

CHANNELS = 64
USUAL_REACH = 24.0  # pixels; the network starts by answering about this much
MEAN, STD = 118.0, 60.0  # of a channel of the images
CLIP_NORM = 5.0


@dataclass(frozen=True)
class Boxes:
    """Scenes of one size, with the box of the object at each point of a grid of stride 4.

    Attributes:
        images: ``(N, 3, side, side)`` uint8.
        targets: ``(N, side / 4, side / 4, 4)`` float32: pixels from the point to the left, upper,
            right and lower side of the visible box of its object; all 0 where there is none.
    """

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)


def draw_boxes(count: int, side: int, seed: int) -> Boxes:
    """Draw square scenes, their side a multiple of 4; the same arguments give the same scenes."""
    images = np.empty((count, side, side, 3), np.uint8)
    points = side // PATCH_STRIDE
    targets = np.zeros((count, points, points, 4), np.float32)
    for index in range(count):
        scene = draw_scene(np.random.default_rng([seed, side, index]), (side, side))
        images[index] = scene.image
        _fill(targets[index], scene)
    return Boxes(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(targets)
    )


def _fill(targets: np.ndarray, scene: Scene) -> None:
    """Write the distances to the sides of each object's box at the points that show it."""
    half = PATCH_STRIDE // 2
    for thing in scene.things:
        if thing.crowd:
            continue
        rows, columns = np.nonzero(thing.mask)
        left, upper, right, lower = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        shown = thing.mask[half::PATCH_STRIDE, half::PATCH_STRIDE]
        y, x = (PATCH_STRIDE * place + half for place in np.nonzero(shown))
        targets[shown] = np.stack([x - left, y - upper, right - x, lower - y], axis=1)


class BoxNetwork(nn.Module):
    """Hiera, its four outputs summed at stride 4, and two convolutions."""

    def __init__(self, arch: Variant, pos_embed: PositionEmbedding) -> None:
        super().__init__()
        self.backbone = HieraTrunk(arch, pos_embed=pos_embed)
        self.lateral = nn.ModuleList(
            nn.Conv2d(dim, CHANNELS, kernel_size=1) for dim in self.backbone.out_channels
        )
        self.head = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, 4, kernel_size=1),
        )

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the backbone's features of images, ``(B, 3, H, W)`` uint8."""
        return self.backbone((images.float() - MEAN) / STD)

    def forward(self, images: Tensor) -> Tensor:
        """Predict the distances of :class:`Boxes` from its images, ``(B, 3, H, W)`` uint8."""
        features = self.features(images)
        size = features[0].shape[-2:]
        merged = sum(
            F.interpolate(lateral(feature), size=size, mode='bilinear')
            for lateral, feature in zip(self.lateral, features, strict=True)
        )
        # Positive, and a step counts the same for small and for large objects.
        return USUAL_REACH * self.head(merged).clamp(-4, 4).exp().permute(0, 2, 3, 1)


def box_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the IoU of boxes given as distances ``(N, 4)`` from the same point inside them."""
    overlap = torch.minimum(predicted, true)
    common = _area(overlap)
    return common / (_area(predicted) + _area(true) - common)


def _area(distances: Tensor) -> Tensor:
    left, upper, right, lower = distances.unbind(-1)
    return (left + right) * (upper + lower)


def train(
    network: BoxNetwork,
    data: Boxes,
    *,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
) -> list[float]:
    """Train a network, and return the loss of each step.

    The learning rate is `rate` after a twentieth of the steps, and falls along a cosine. The seed
    decides which scenes a step sees, and which way round.
    """
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    warm_up = max(1, steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    network.train()
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(data), (batch,), generator=random)
        images, targets = data.images[chosen], data.targets[chosen]
        if torch.rand((), generator=random) < 0.5:
            images, targets = flip(images, targets)
        shown = targets.sum(-1) > 0
        ious = box_iou(network(images)[shown], targets[shown])
        # A sum, so that scenes without an object give 0 and not NaN.
        loss = -ious.clamp(min=1e-4).log().sum() / max(1, len(ious))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def flip(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror scenes, so that left and right change places."""
    return images.flip(3), targets.flip(2)[..., [2, 1, 0, 3]]


@torch.no_grad()
def score(network: BoxNetwork, data: Boxes, batch: int) -> float:
    """Return the mean IoU of predicted and true boxes over all points on objects, 0 to 100."""
    network.eval()
    total, count = 0.0, 0
    for start in range(0, len(data), batch):
        targets = data.targets[start : start + batch]
        shown = targets.sum(-1) > 0
        predicted = network(data.images[start : start + batch])
        total += box_iou(predicted[shown], targets[shown]).sum().item()
        count += int(shown.sum())
    return 100 * total / count
