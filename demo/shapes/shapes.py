"""The `shapes` set on disk: made once from a seed, whole or not at all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from demo.shapes.files import coco_annotation, coco_categories, write_image, write_json
from demo.shapes.scenes import SEG_CLASSES, draw_scene

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
    recipe = _recipe(num_train, num_val, seed)
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


def _recipe(num_train: int, num_val: int, seed: int) -> dict[str, Any]:
    """Check the arguments and return what `shapes.json` records."""
    limits = {'num_train': (num_train, 1), 'num_val': (num_val, 1), 'seed': (seed, 0)}
    for name, (value, least) in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f'{name} must be an integer of at least {least}, not {value!r}')
    return {
        'format': 'shapes',
        'version': VERSION,
        'classes': list(SEG_CLASSES),
        'num_train': num_train,
        'num_val': num_val,
        'seed': seed,
    }


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
        'categories': coco_categories(),
    }
    write_json(paths.instances(split), content)
