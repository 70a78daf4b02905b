"""Procedural textures: grey patterns, and the two colours that dye them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def _noise(rng: np.random.Generator, height: int, width: int, cells: Sequence[float]) -> np.ndarray:
    """Sum of smooth noises; `cells` are their cell sizes in pixels, the coarsest weighs most."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        total += cell**0.5 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX)


def _ramps(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular coordinates in pixels, turned by a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _wave(rng: np.random.Generator, ramp: np.ndarray) -> np.ndarray:
    """A wave from -1 to 1 along a coordinate, its period 5 to 16 pixels, its edges soft or hard."""
    phase = 2 * np.pi * (ramp / rng.uniform(5, 16) + rng.random())
    return np.clip(np.sin(phase) * rng.uniform(1, 4), -1, 1).astype(np.float32)


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Large soft blobs."""
    return _noise(rng, height, width, (64, 32, 16))


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fine speckle on top of small blobs."""
    return _noise(rng, height, width, (12, 6, 3, 2))


def gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An even slope in any direction."""
    return cv2.normalize(_ramps(rng, height, width)[0], None, 0.0, 1.0, cv2.NORM_MINMAX)


def stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Parallel bands in any direction."""
    return (_wave(rng, _ramps(rng, height, width)[0]) + 1) / 2


def checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A chessboard or a weave in any direction."""
    along, across = _ramps(rng, height, width)
    return (_wave(rng, along) * _wave(rng, across) + 1) / 2


SMOOTH = (clouds, gradient)
ROUGH = (grain, stripes, checks)


def dye(
    rng: np.random.Generator, pattern: np.ndarray, colour: np.ndarray, contrast: float
) -> np.ndarray:
    """Colour a pattern.

    Args:
        rng: Source of the direction in which the colour varies.
        pattern: `(H, W)` float32 in [0, 1].
        colour: The middle colour, 3 values in [0, 1].
        contrast: Distance between the two extreme colours.

    Returns:
        `(H, W, 3)` float32, about [0, 1], to be clipped at the end.
    """
    # Mostly a change of brightness, as in nature, with some change of hue.
    direction = rng.normal(1.0, 0.5, 3)
    step = (contrast * direction / np.linalg.norm(direction)).astype(np.float32)
    return colour.astype(np.float32) + (pattern - 0.5)[..., None] * step
