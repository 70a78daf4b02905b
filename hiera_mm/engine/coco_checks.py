"""Checks of COCO annotation files against a data set's config."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from ..errors import DataError, listing

NUM_SAMPLES = 8


@dataclass(frozen=True)
class CocoSummary:
    """What the checks need to know of a COCO file.

    Attributes:
        path: The file.
        categories: Names, in the order of the file.
        annotations: Number of annotations of each category.
        samples: File names of a few images, spread over the file.
    """

    path: Path
    categories: list[str]
    annotations: Counter[str | None]
    samples: list[str]


def read_coco(path: Path, needs_annotations: bool) -> CocoSummary:
    """Read a COCO file and check its outline.

    Args:
        path: The file.
        needs_annotations: Whether it must have annotations; a test set may come without.

    Returns:
        A summary, as the file itself may be large.

    Raises:
        DataError: If it is not JSON or not in COCO format.
    """
    try:
        content = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise DataError(f'Annotation file {path} is not JSON: it is not even text.') from error
    except json.JSONDecodeError as error:
        start = error.doc.lstrip()[:30]
        hint = f' It begins with {start!r}.' if start else ' It is empty.'
        raise DataError(
            f'Annotation file {path} is not JSON: {error.msg} at line {error.lineno}, column '
            f'{error.colno}.{hint} Was the download or the export interrupted?'
        ) from error
    needed = ['images', 'categories'] + ['annotations'] * needs_annotations
    missing = [
        key
        for key in needed
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        has = listing(list(content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            f'Annotation file {path} is JSON, but not in COCO format: it needs lists called '
            f'{listing(missing)} at the top, and has {has}.'
        )
    images = content['images']
    step = max(1, len(images) // NUM_SAMPLES)
    try:
        names = {category['id']: category['name'] for category in content['categories']}
        labels = [
            names.get(item['category_id'])
            for annotation in content.get('annotations') or ()
            # A panoptic file has one annotation for each image, with its segments inside.
            for item in annotation.get('segments_info', [annotation])
        ]
        samples = [image['file_name'] for image in images[::step][:NUM_SAMPLES]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'Annotation file {path} is not in COCO format: an image, annotation or category has '
            f'no {error}.'
        ) from error
    return CocoSummary(path, list(names.values()), Counter(labels), samples)


def check_coco_images(summary: CocoSummary, dataset: BaseDataset, where: str) -> None:
    """Check that a few of the images are where the data set will look for them.

    Args:
        summary: The annotation file.
        dataset: The data set.
        where: Its place in the config.

    Raises:
        DataError: If there are no images, or one is missing.
    """
    if not summary.samples:
        raise DataError(f'Annotation file {summary.path} lists no images.')
    folder = Path(dataset.data_prefix.get('img') or '')
    for name in summary.samples:
        if not (folder / name).is_file():
            raise DataError(
                f'{summary.path} lists the image {name}, which is not in the image folder. Looked '
                f'for: {(folder / name).absolute()}. The folder is set by '
                f'{where}.data_prefix.img; file names in the JSON are relative to it.'
            )


def check_categories(
    summary: CocoSummary, dataset: BaseDataset, where: str, training: bool
) -> None:
    """Check the classes of a data set against the categories of its file.

    A class list may leave categories out, which is only worth a warning.

    Args:
        summary: The annotation file.
        dataset: The data set.
        where: Its place in the config.
        training: Whether it must hold annotations to learn from.

    Raises:
        DataError: If a class is not in the file; mmdet would quietly train on what is left. If
            the classes stand in another order than in the file; mmdet numbers them in the order
            of the file, so that every name would be wrong. If nothing is annotated.
    """
    classes = list(dataset.metainfo.get('classes') or ())
    known = set(summary.categories)
    missing = [name for name in classes if name not in known]
    unused = [name for name in summary.categories if name not in classes]
    both = (
        f'\nClasses in the config ({len(classes)}): {listing(classes, 20)}'
        f'\nCategories in the file ({len(summary.categories)}): {listing(summary.categories, 20)}'
    )
    key = f'{where}.metainfo.classes'
    if missing:
        raise DataError(
            f'The classes of {where} do not match {summary.path}.{both}'
            f'\nOnly in the config: {listing(missing)}'
            f'\nOnly in the file: {listing(unused) or "none"}'
            f'\nSpell {key} as in the file; upper and lower case count.'
        )
    ordered = [name for name in summary.categories if name in classes]
    if ordered != classes and _numbers_by_file(dataset):
        raise DataError(
            f'The classes of {where} stand in another order than in {summary.path}, and mmdet '
            f'numbers them in the order of the file, so that names would be mixed up.{both}'
            f'\nWrite {key} = {tuple(ordered)}.'
        )
    if unused:
        print_log(
            f'{where} leaves out {len(unused)} categories of {summary.path}: {listing(unused)}',
            logger='current',
            level=logging.WARNING,
        )
    if training and not any(summary.annotations[name] for name in classes):
        raise DataError(f'{summary.path} has no annotation of any class, so nothing can be learnt.')


def _numbers_by_file(dataset: BaseDataset) -> bool:
    """Whether the data set numbers its classes as `CocoDataset` does."""
    owner: Any = next(kind for kind in type(dataset).__mro__ if 'load_data_list' in vars(kind))
    return owner.__name__ == 'CocoDataset'
