"""What one image of the `shapes` set shows: background, loose threads, objects, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from demo.shapes import colours, textures
from demo.shapes.outlines import THING_CLASSES, area, place, rasterise

STUFF_CLASSES: tuple[str, ...] = ('ground', 'sky')
SEG_CLASSES: tuple[str, ...] = STUFF_CLASSES + THING_CLASSES
UNLABELLED = 0  # in a label map; class i of SEG_CLASSES is i + 1

MIN_PIXELS = 20  # an object showing less than this many pixels ...
MIN_VISIBLE = 0.5  # ... or less than this share of itself is left out of the scene
MAX_OBJECTS = 5
USUAL_AREA = 160 * 160  # pixels
LEAST_SIDE = 64  # a crowd needs it
MAX_TURN = 0.4  # radians to either side
TRIES = 5  # for each object wanted, so that full scenes stay near their number


@dataclass(frozen=True)
class Thing:
    """One annotated object, or one crowd of them.

    Attributes:
        name: One of `THING_CLASSES`.
        mask: The visible pixels, `(H, W)` bool.
        crowd: Whether this stands for many tiny objects at once.
    """

    name: str
    mask: np.ndarray
    crowd: bool


@dataclass(frozen=True)
class Scene:
    """One image with its truth.

    Attributes:
        image: `(H, W, 3)` uint8, BGR.
        labels: `(H, W)` uint8; 0 is unlabelled, `i + 1` is class `i` of `SEG_CLASSES`.
        things: The annotated objects, front to back; no two masks overlap.
    """

    image: np.ndarray
    labels: np.ndarray
    things: list[Thing]


def draw_scene(rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """Draw a random scene.

    Args:
        rng: Everything in the scene follows from its state.
        size: Height and width in pixels, at least 64 each; about 160 x 160 at random by default.
            Objects measure the same whatever the size, and there are more of them in a larger
            scene.

    Raises:
        ValueError: If a side of `size` is below 64.
    """
    if size is None:
        height, width = _image_size(rng)
        max_objects = MAX_OBJECTS
    else:
        if min(size) < LEAST_SIDE:
            raise ValueError(f'a scene needs at least {LEAST_SIDE} pixels on a side, not {size}')
        height, width = size
        max_objects = max(1, round(MAX_OBJECTS * height * width / USUAL_AREA))
    canvas, labels = _background(rng, height, width)
    if rng.random() < 0.3:
        _thread(rng, canvas, labels)
    things = _arrange(rng, height, width, max_objects)
    for thing in things:
        labels[thing.mask] = 1 + SEG_CLASSES.index(thing.name)
        _paint(rng, canvas, thing.mask, colours.thing_colour(rng, thing.name))
    return Scene(_photograph(rng, canvas), labels, things)


def _image_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width, 112 to 208 pixels, with an area of about 160 x 160."""
    ratio = np.exp(rng.uniform(-0.5, 0.5))
    side = rng.uniform(150, 162)
    height, width = np.clip(np.rint([side * ratio**0.5, side / ratio**0.5]), 112, 208)
    return int(height), int(width)


def _background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground below sky, or one of them alone: canvas and label map."""
    kind = rng.choice(['both', 'ground', 'sky'], p=[0.7, 0.2, 0.1])
    x = np.arange(width) / width - 0.5
    waves = 0.03 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * x + rng.random()))
    horizon = height * (rng.uniform(0.25, 0.65) + rng.uniform(-0.3, 0.3) * x + waves)
    is_sky = np.arange(height)[:, None] < horizon
    if kind != 'both':
        is_sky = np.full((height, width), kind == 'sky')
    ground = rng.choice(textures.ROUGH)(rng, height, width)
    sky = rng.choice(textures.SMOOTH)(rng, height, width)
    canvas = np.where(
        is_sky[..., None],
        textures.dye(rng, sky, colours.sky_colour(rng), rng.uniform(0.05, 0.2)),
        textures.dye(rng, ground, colours.ground_colour(rng), rng.uniform(0.1, 0.25)),
    )
    labels = np.where(is_sky, 1 + SEG_CLASSES.index('sky'), 1 + SEG_CLASSES.index('ground')).astype(
        np.uint8
    )
    return canvas, labels


def _thread(rng: np.random.Generator, canvas: np.ndarray, labels: np.ndarray) -> None:
    """Lay a loose thread over the background: it is no class, so it is unlabelled."""
    height, width = labels.shape
    knots = rng.uniform(-0.1, 1.1, (4, 2)) * (width, height)
    t = np.linspace(0, 1, 32)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)  # a Bezier curve
    curve = sum(weight * knot for weight, knot in zip(weights, knots, strict=True))
    along = np.gradient(curve, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across *= rng.uniform(1, 2) / np.linalg.norm(along, axis=1, keepdims=True)
    mask = rasterise([np.concatenate([curve + across, (curve - across)[::-1]])], height, width)
    canvas[mask] = rng.random(3)
    labels[mask] = UNLABELLED


def _arrange(rng: np.random.Generator, height: int, width: int, max_objects: int) -> list[Thing]:
    """Place objects from front to back, each showing what those before it leave free."""
    free = np.ones((height, width), bool)
    things: list[Thing] = []
    if rng.random() < 0.06:
        things.append(_crowd(rng, height, width))
        free &= ~things[0].mask
    wanted = int(rng.integers(1, max_objects + 1))
    for _ in range(TRIES * wanted):
        if sum(not thing.crowd for thing in things) == wanted:
            break
        name = str(rng.choice(THING_CLASSES))
        centre = rng.uniform((0, 0), (width, height))
        loops = place(name, centre, _object_size(rng), rng.uniform(-MAX_TURN, MAX_TURN))
        mask = rasterise(loops, height, width) & free
        if mask.sum() >= max(MIN_PIXELS, MIN_VISIBLE * area(loops)):
            things.append(Thing(name, mask, crowd=False))
            free &= ~mask
    return things


def _object_size(rng: np.random.Generator) -> tuple[float, float]:
    """Width and height in pixels: tiny, middling or large; tiny ones are not stretched as far."""
    kind = rng.choice(['tiny', 'middling', 'large'], p=[0.12, 0.58, 0.30])
    low, high = {'tiny': (10, 16), 'middling': (20, 64), 'large': (64, 120)}[kind]
    across = np.exp(rng.uniform(np.log(low), np.log(high)))
    stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log(1.3 if kind == 'tiny' else 2.0))
    return across * stretch, across / stretch


def _crowd(rng: np.random.Generator, height: int, width: int) -> Thing:
    """A tight cluster of tiny objects of one class."""
    name = str(rng.choice(THING_CLASSES))
    rows, columns = rng.integers(3, 6, 2)
    pitch = rng.uniform(9, 12)
    extent = pitch * np.array([columns, rows])
    corner = rng.uniform((0, 0), (width, height) - extent)
    mask = np.zeros((height, width), bool)
    for row, column in np.ndindex(int(rows), int(columns)):
        centre = corner + pitch * (np.array([column, row]) + rng.uniform(0.4, 0.6, 2))
        size = (pitch * rng.uniform(0.6, 0.8),) * 2
        mask |= rasterise(place(name, centre, size, rng.uniform(0, 2 * np.pi)), height, width)
    return Thing(name, mask, crowd=True)


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray
) -> None:
    """Cover the masked pixels with a random texture of any family."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    pattern = rng.choice(textures.SMOOTH + textures.ROUGH)(rng, height, width)
    dyed = textures.dye(rng, pattern, colour, rng.uniform(0.1, 0.3))
    inside = mask[y : y + height, x : x + width]
    canvas[y : y + height, x : x + width][inside] = dyed[inside]


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Light the scene unevenly, blur it a little, add sensor noise, and round to bytes."""
    height, width = canvas.shape[:2]
    light = 1 + rng.uniform(0, 0.3) * (textures.gradient(rng, height, width) - 0.5)
    image = cv2.GaussianBlur(canvas * light[..., None], (0, 0), 0.5)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
    return np.rint(np.clip(image + noise, 0, 1) * 255).astype(np.uint8)
