"""The `shapes` set on disk, made once from a seed, whole or not at all.

JPEG images, label maps as ADE20K has them, and COCO instances.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from demo.shapes.scenes import SEG_CLASSES, THING_CLASSES, Thing, draw_scene

SPLITS: tuple[str, ...] = ('training', 'validation')
RECIPE = 'shapes.json'  # written last, so its presence means that the set is whole
VERSION = 1  # to be raised whenever the same seed no longer gives the same files


@dataclass(frozen=True)
class ShapesPaths:
    """Where the parts of a `shapes` set lie; `split` is 'training' or 'validation'."""

    root: Path

    def images(self, split: str) -> Path:
        """Folder of the JPEG images."""
        return self.root / 'images' / split

    def labels(self, split: str) -> Path:
        """Folder of the label PNGs, named as the images are."""
        return self.root / 'annotations' / split

    def instances(self, split: str) -> Path:
        """The COCO instance file."""
        return self.root / 'annotations' / f'instances_{split}.json'


def make_shapes(
    root: str | Path = 'data/shapes',
    *,
    num_train: int = 1000,
    num_val: int = 200,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> ShapesPaths:
    """Make the `shapes` set, or find it made.

    The files are written beside `root` under a temporary name and moved there when all are
    written, so that `root` never holds half a set. A set made earlier with the same arguments is
    left as it is. The same arguments give the same bytes, and image `i` of a split depends only
    on `seed`, the split and `i`.

    Args:
        root: Folder to make.
        num_train: Number of training images, at least 1.
        num_val: Number of validation images, at least 1.
        seed: Any integer from 0 on.
        overwrite: Make the set anew where `root` already holds a `shapes` set. A folder with
            anything else in it is never touched.
        progress: Show a progress bar on stderr.

    Returns:
        The paths of the set.

    Raises:
        ValueError: If a number is not an integer or is out of range.
        FileExistsError: If `root` holds something else than the set asked for.
        OSError: If the files cannot be written.
    """
    counts = {'num_train': num_train, 'num_val': num_val, 'seed': seed}
    for name, value in counts.items():
        least = 0 if name == 'seed' else 1
        if not isinstance(value, int) or value < least:
            raise ValueError(f'{name} must be an integer of at least {least}, not {value!r}')
    recipe = {'format': 'shapes', 'version': VERSION, 'classes': list(SEG_CLASSES), **counts}
    root = Path(root).resolve()
    if not overwrite and _read_recipe(root) == recipe:
        return ShapesPaths(root)
    _check_replaceable(root, overwrite)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as workshop:
        made = ShapesPaths(Path(workshop) / 'new')
        total = num_train + num_val
        with tqdm(total=total, desc='shapes', unit='image', disable=not progress) as bar:
            for split, count in zip(SPLITS, (num_train, num_val), strict=True):
                _write_split(made, split, count, seed, bar)
        write_json(made.root / RECIPE, recipe)
        if overwrite and root.exists():
            root.rename(Path(workshop) / 'old')
        try:
            made.root.rename(root)
        except OSError:
            # Another process may have made the same set meanwhile.
            if _read_recipe(root) != recipe:
                raise
    return ShapesPaths(root)


def _read_recipe(root: Path) -> dict[str, Any] | None:
    """What `root` was made with, or None if it is no `shapes` set."""
    try:
        recipe = json.loads((root / RECIPE).read_text())
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) and recipe.get('format') == 'shapes' else None


def _check_replaceable(root: Path, overwrite: bool) -> None:
    """Raise unless `root` is absent, empty, or a `shapes` set that may be overwritten."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    recipe = _read_recipe(root)
    if recipe is None:
        raise FileExistsError(
            f'{root} already exists and is not a shapes set (it has no valid {RECIPE}); it was '
            'left untouched. Choose another folder, or remove it yourself.'
        )
    foreign = sorted({path.name for path in root.iterdir()} - {'images', 'annotations', RECIPE})
    if foreign:
        raise FileExistsError(
            f'{root} holds another shapes set and also {", ".join(foreign)}; it was left '
            'untouched. Choose another folder, or move what is yours elsewhere.'
        )
    if not overwrite:
        made_with = {key: recipe.get(key) for key in ('num_train', 'num_val', 'seed', 'version')}
        raise FileExistsError(
            f'{root} already holds a shapes set, made with {made_with}. Choose another folder, ask '
            'for the same numbers, or replace it with overwrite=True (--force).'
        )


def _write_split(paths: ShapesPaths, split: str, count: int, seed: int, bar: tqdm) -> None:
    """Draw and write one split."""
    paths.images(split).mkdir(parents=True)
    paths.labels(split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        entropy = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
        scene = draw_scene(np.random.default_rng(entropy))
        stem = f'{split}_{index + 1:06d}'
        write_image(paths.images(split) / f'{stem}.jpg', scene.image)
        write_image(paths.labels(split) / f'{stem}.png', scene.labels)
        height, width = scene.labels.shape
        images.append(
            {'id': index + 1, 'file_name': f'{stem}.jpg', 'height': height, 'width': width}
        )
        for thing in scene.things:
            annotations.append(coco_annotation(thing, len(annotations) + 1, index + 1))
        bar.update()
    content = {
        'info': {'description': f'shapes, {split}', 'version': str(VERSION)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for i, name in enumerate(THING_CLASSES, start=1)],
    }
    write_json(paths.instances(split), content)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a BGR image or a label map; the suffix, `.jpg` or `.png`, gives the format."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == '.jpg' else []
    # Unlike imwrite, write_bytes raises where the disk is full or the folder is missing.
    _, data = cv2.imencode(path.suffix, image, flags)
    path.write_bytes(data.tobytes())


def write_json(path: Path, content: Any) -> None:
    """Write JSON whose bytes depend on the content alone."""
    path.write_text(json.dumps(content, sort_keys=True, separators=(',', ':')) + '\n')


def coco_annotation(thing: Thing, annotation_id: int, image_id: int) -> dict[str, Any]:
    """One entry of the `annotations` list of a COCO instance file.

    The segmentation always decodes to exactly `thing.mask`: polygons along the pixel edges where
    polygons can say it, uncompressed RLE for crowds and for masks with holes.
    """
    rle = coco_mask.encode(np.asfortranarray(thing.mask, dtype=np.uint8))
    as_runs = thing.crowd or _has_holes(thing.mask)
    return {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': 1 + THING_CLASSES.index(thing.name),
        'iscrowd': int(thing.crowd),
        'area': int(coco_mask.area(rle)),
        'bbox': [int(v) for v in coco_mask.toBbox(rle)],
        'segmentation': _run_lengths(thing.mask) if as_runs else _polygons(thing.mask),
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
