"""The object classes of the `shapes` set, as outlines, and outlines as pixel masks."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask


def _regular(corners: int, start: float = -90.0) -> np.ndarray:
    """Corners of a regular polygon on the unit circle, the first one at `start` degrees."""
    angles = np.deg2rad(start + 360.0 * np.arange(corners) / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int = 5, waist: float = 0.45) -> np.ndarray:
    """A star whose inner corners lie at `waist` of the outer radius."""
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, waist)
    return _regular(2 * points) * radii[:, None]


def _cross(arm: float = 0.33) -> np.ndarray:
    """A plus sign whose arms are `arm` wide on each side of the axis."""
    quarter = np.array([[-arm, -1.0], [arm, -1.0], [arm, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # row vectors: a quarter turn
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _fill_box(*loops: np.ndarray) -> list[np.ndarray]:
    """Scale loops together so that the first one touches all sides of [-1, 1] x [-1, 1]."""
    low, high = loops[0].min(axis=0), loops[0].max(axis=0)
    return [(loop - low) / (high - low) * 2 - 1 for loop in loops]


# Each class is a list of closed loops: the rim, and where there is one, the hole.
OUTLINES: dict[str, list[np.ndarray]] = {
    'disc': _fill_box(_regular(48)),
    'box': _fill_box(_regular(4, start=-45.0)),
    'triangle': _fill_box(_regular(3)),
    'star': _fill_box(_star()),
    'ring': _fill_box(_regular(48), 0.55 * _regular(48)),
    'cross': _fill_box(_cross()),
}

THING_CLASSES: tuple[str, ...] = tuple(OUTLINES)


def place(
    name: str, centre: tuple[float, float], size: tuple[float, float], angle: float
) -> list[np.ndarray]:
    """Put a class outline into an image.

    Args:
        name: One of `THING_CLASSES`.
        centre: x and y in pixels.
        size: Width and height in pixels, before the turn.
        angle: Turn in radians.

    Returns:
        The loops, each `(N, 2)` float64, x and y in pixels; they may leave the image.
    """
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [loop * np.divide(size, 2) @ turn + centre for loop in OUTLINES[name]]


def area(loops: list[np.ndarray]) -> float:
    """Pixels inside the first loop and outside the others, whether in the image or not."""
    rim, *holes = (cv2.contourArea(loop.astype(np.float32)) for loop in loops)
    return rim - sum(holes)


def rasterise(loops: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill loops by the even-odd rule.

    Returns:
        The mask, `(height, width)` bool.
    """
    rles = coco_mask.frPyObjects([loop.ravel().tolist() for loop in loops], height, width)
    return np.bitwise_xor.reduce(coco_mask.decode(rles), axis=2).astype(bool)
