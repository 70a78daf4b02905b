"""What one image of the `shapes` set shows: background, loose threads, objects, and the truth.

With a seed given, the order in which numbers are drawn from `rng` is part of the data set.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from pycocotools import mask as coco_mask

MIN_PIXELS = 20  # an object showing less than this many pixels ...
MIN_VISIBLE = 0.5  # ... or less than this share of itself is left out of the scene
MAX_OBJECTS = 5
USUAL_AREA = 160 * 160  # pixels
LEAST_SIDE = 64  # a crowd needs it
MAX_TURN = 0.4  # radians to either side
TRIES = 5  # for each object wanted, so that full scenes stay near their number
STRAY = 1 / 12  # share of objects of any hue at all, so that only the outline gives the class
HUE_SPREAD = 0.03  # neighbouring classes are 1 / 6 apart


# --- Outlines


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
STUFF_CLASSES: tuple[str, ...] = ('ground', 'sky')
SEG_CLASSES: tuple[str, ...] = STUFF_CLASSES + THING_CLASSES
UNLABELLED = 0  # in a label map; class i of SEG_CLASSES is i + 1


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
    """Fill loops by the even-odd rule: a mask, `(height, width)` bool."""
    rles = coco_mask.frPyObjects([loop.ravel().tolist() for loop in loops], height, width)
    return np.bitwise_xor.reduce(coco_mask.decode(rles), axis=2).astype(bool)


# --- Textures: grey patterns, `(height, width)` float32 in [0, 1], and the colours that dye them


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


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An even slope in any direction."""
    return cv2.normalize(_ramps(rng, height, width)[0], None, 0.0, 1.0, cv2.NORM_MINMAX)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Parallel bands in any direction."""
    return (_wave(rng, _ramps(rng, height, width)[0]) + 1) / 2


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A chessboard or a weave in any direction."""
    along, across = _ramps(rng, height, width)
    return (_wave(rng, along) * _wave(rng, across) + 1) / 2


_clouds = partial(_noise, cells=(64, 32, 16))  # large soft blobs
_grain = partial(_noise, cells=(12, 6, 3, 2))  # fine speckle on top of small blobs
SMOOTH = (_clouds, _gradient)
ROUGH = (_grain, _stripes, _checks)


def _dye(
    rng: np.random.Generator, pattern: np.ndarray, colour: np.ndarray, contrast: float
) -> np.ndarray:
    """Give a pattern a middle colour, and a distance between its two extreme ones."""
    # Mostly a change of brightness, as in nature, with some change of hue.
    direction = rng.normal(1.0, 0.5, 3)
    step = (contrast * direction / np.linalg.norm(direction)).astype(np.float32)
    return colour.astype(np.float32) + (pattern - 0.5)[..., None] * step


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return a colour as 3 values in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))[::-1]


def _thing_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw a vivid colour, its hue near that of the class."""
    hue = THING_CLASSES.index(name) / len(THING_CLASSES) + rng.normal(0, HUE_SPREAD)
    if rng.random() < STRAY:
        hue = rng.random()
    return _bgr(hue % 1, rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0))


# --- Scenes


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
        _paint(rng, canvas, thing.mask, _thing_colour(rng, thing.name))
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
    ground = rng.choice(ROUGH)(rng, height, width)
    sky = rng.choice(SMOOTH)(rng, height, width)
    pale = _bgr(rng.uniform(0.5, 0.7), rng.uniform(0.05, 0.35), rng.uniform(0.55, 0.95))
    sky = _dye(rng, sky, pale, rng.uniform(0.05, 0.2))
    earthy = _bgr(rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.6))
    ground = _dye(rng, ground, earthy, rng.uniform(0.1, 0.25))
    labels = (1 + is_sky).astype(np.uint8)  # ground is 1, sky is 2
    return np.where(is_sky[..., None], sky, ground), labels


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
    pattern = rng.choice(SMOOTH + ROUGH)(rng, height, width)
    dyed = _dye(rng, pattern, colour, rng.uniform(0.1, 0.3))
    inside = mask[y : y + height, x : x + width]
    canvas[y : y + height, x : x + width][inside] = dyed[inside]


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Light the scene unevenly, blur it a little, add sensor noise, and round to bytes."""
    height, width = canvas.shape[:2]
    light = 1 + rng.uniform(0, 0.3) * (_gradient(rng, height, width) - 0.5)
    image = cv2.GaussianBlur(canvas * light[..., None], (0, 0), 0.5)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
    return np.rint(np.clip(image + noise, 0, 1) * 255).astype(np.uint8)
