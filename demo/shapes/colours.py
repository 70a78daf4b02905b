"""The colours of a scene: vivid objects, each class around a hue of its own, on muted ground."""

from __future__ import annotations

import colorsys

import numpy as np

from demo.shapes.outlines import THING_CLASSES

STRAY = 1 / 12  # share of objects of any hue at all, so that only the outline gives the class
HUE_SPREAD = 0.03  # neighbouring classes are 1 / 6 apart


def thing_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw the colour of an object of the class `name`; BGR, 3 values in [0, 1]."""
    hue = THING_CLASSES.index(name) / len(THING_CLASSES) + rng.normal(0, HUE_SPREAD)
    if rng.random() < STRAY:
        hue = rng.random()
    return _bgr(hue % 1, rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0))


def ground_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw an earthy colour; BGR, 3 values in [0, 1]."""
    return _bgr(rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.6))


def sky_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a pale, mostly blue colour; BGR, 3 values in [0, 1]."""
    return _bgr(rng.uniform(0.5, 0.7), rng.uniform(0.05, 0.35), rng.uniform(0.55, 0.95))


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))[::-1]
