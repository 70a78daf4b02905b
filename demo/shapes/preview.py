"""A contact sheet of a `shapes` set, drawn from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from demo.shapes.files import write_image
from demo.shapes.scenes import SEG_CLASSES
from demo.shapes.shapes import ShapesPaths

# BGR, by label value.
COLOURS = {
    'unlabelled': (255, 255, 255),
    'ground': (60, 90, 120),
    'sky': (225, 190, 140),
    'disc': (60, 60, 235),
    'box': (60, 170, 50),
    'triangle': (235, 90, 50),
    'star': (30, 200, 250),
    'ring': (200, 60, 190),
    'cross': (170, 170, 20),
}
WHITE = (255, 255, 255)
ZOOM = 1.5
MARGIN = 8
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_preview(
    paths: ShapesPaths,
    file: str | Path,
    *,
    split: str = 'training',
    image_ids: Sequence[int] = (1, 2, 3, 4),
) -> None:
    """Draw images of a set with their truth.

    Each image stands above its label map, with the instances' boxes and outlines on it; a key to
    the colours is at the bottom.

    Args:
        paths: The set.
        file: Picture to write, `.png` or `.jpg`.
        split: 'training' or 'validation'.
        image_ids: The images, counted from 1.

    Raises:
        KeyError: If the split has no such image.
    """
    coco = COCO(paths.instances(split))
    palette = np.array([COLOURS[name] for name in ('unlabelled', *SEG_CLASSES)], np.uint8)
    columns = []
    for record in coco.loadImgs(image_ids):
        image_file = paths.images(split) / record['file_name']
        label_file = (paths.labels(split) / record['file_name']).with_suffix('.png')
        labels = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
        truth = _draw_instances(cv2.imread(str(image_file)), coco, coco.imgToAnns[record['id']])
        gap = np.full((MARGIN, truth.shape[1], 3), 255, np.uint8)
        columns.append(np.vstack([truth, gap, _zoom(palette[labels], cv2.INTER_NEAREST)]))
    height = max(len(column) for column in columns) + 2 * MARGIN
    sheet = np.hstack([_pad(column, height) for column in columns])
    # Sensor noise would make up most of a PNG. With five bits a channel the picture looks the same.
    write_image(Path(file), np.vstack([sheet, _key(sheet.shape[1])]) | 7)


def _zoom(image: np.ndarray, interpolation: int) -> np.ndarray:
    """Enlarge an image or a mask."""
    return cv2.resize(image, None, fx=ZOOM, fy=ZOOM, interpolation=interpolation)


def _pad(column: np.ndarray, height: int) -> np.ndarray:
    """Put white around a column of pictures, which stays in the middle."""
    top, rest = divmod(height - len(column), 2)
    return cv2.copyMakeBorder(
        column, top, top + rest, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=WHITE
    )


def _draw_instances(
    image: np.ndarray, coco: COCO, annotations: Sequence[dict[str, Any]]
) -> np.ndarray:
    """Zoom an image and draw its instances: outline in white, box in the colour of the class."""
    canvas = _zoom(image, cv2.INTER_CUBIC)
    for annotation in annotations:
        mask = _zoom(coco.annToMask(annotation), cv2.INTER_NEAREST)
        rims, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, rims, -1, WHITE, 1)
        x, y, width, height = (round(ZOOM * value) for value in annotation['bbox'])
        colour = COLOURS[coco.cats[annotation['category_id']]['name']]
        cv2.rectangle(canvas, (x, y), (x + width - 1, y + height - 1), colour, 2)
        if annotation['iscrowd']:
            cv2.putText(canvas, 'crowd', (x, y + height + 12), FONT, 0.4, WHITE, 1, cv2.LINE_AA)
    return canvas


def _key(width: int) -> np.ndarray:
    """A strip that names the colours."""
    strip = np.full((34, width, 3), 255, np.uint8)
    pitch = width / len(COLOURS)
    for i, (name, colour) in enumerate(COLOURS.items()):
        x = int(i * pitch) + 10
        cv2.rectangle(strip, (x, 8), (x + 16, 24), colour, cv2.FILLED)
        cv2.rectangle(strip, (x, 8), (x + 16, 24), (0, 0, 0), 1)
        cv2.putText(strip, name, (x + 24, 21), FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
