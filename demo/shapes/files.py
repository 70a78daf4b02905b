"""Scenes as files: JPEG images, ADE20K-style label PNGs and COCO instance annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from demo.shapes.outlines import THING_CLASSES
from demo.shapes.scenes import Thing


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a BGR image or a label map; the suffix, `.jpg` or `.png`, gives the format."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == '.jpg' else []
    # Unlike imwrite, write_bytes raises where the disk is full or the folder is missing.
    _, data = cv2.imencode(path.suffix, image, flags)
    path.write_bytes(data.tobytes())


def write_json(path: Path, content: Any) -> None:
    """Write JSON whose bytes depend on the content alone."""
    path.write_text(json.dumps(content, sort_keys=True, separators=(',', ':')) + '\n')


def coco_categories() -> list[dict[str, Any]]:
    """The COCO categories: the thing classes, numbered from 1."""
    return [{'id': i, 'name': name} for i, name in enumerate(THING_CLASSES, start=1)]


def coco_annotation(thing: Thing, annotation_id: int, image_id: int) -> dict[str, Any]:
    """One entry of the `annotations` list of a COCO instance file.

    The segmentation always decodes to exactly `thing.mask`: polygons along the pixel edges where
    polygons can say it, uncompressed RLE for crowds and for masks with holes.
    """
    crowd_or_holes = thing.crowd or _has_holes(thing.mask)
    rle = coco_mask.encode(np.asfortranarray(thing.mask, dtype=np.uint8))
    return {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': 1 + THING_CLASSES.index(thing.name),
        'iscrowd': int(thing.crowd),
        'area': int(coco_mask.area(rle)),
        'bbox': [int(v) for v in coco_mask.toBbox(rle)],
        'segmentation': _run_lengths(thing.mask) if crowd_or_holes else _polygons(thing.mask),
    }


def _has_holes(mask: np.ndarray) -> bool:
    """Whether the mask encloses pixels that are not its own."""
    _, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return bool((tree[0, :, 3] >= 0).any())


def _polygons(mask: np.ndarray) -> list[list[int]]:
    """Polygons along the pixel edges, one for each connected part of a mask without holes."""
    # OpenCV follows pixel centres. With every pixel blown up to 3 x 3, the centres of the outer
    # ones are a third of a pixel from the edge, so that rounding finds the edge.
    blown_up = np.kron(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(blown_up, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = (contour[:, 0] + 1) // 3
        keep = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        polygons.append(corners[keep].ravel().tolist())
    return polygons


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE: lengths of runs down the columns, the first one of zeros."""
    pixels = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(changes, prepend=0, append=pixels.size)
    return {'size': list(mask.shape), 'counts': counts.tolist()}
