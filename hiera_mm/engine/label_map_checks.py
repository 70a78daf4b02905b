"""Checks of label maps for semantic segmentation against a data set's config."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError, listing

NUM_SAMPLES = 8


def check_label_maps(dataset: Any, where: str) -> None:
    """Check that images have label maps, and what a few of the maps hold.

    Args:
        dataset: An mmseg data set, built without having read its files.
        where: Its place in the config.

    Raises:
        DataError: If there are no images, a map is missing, is not an image of one channel, or
            holds values that stand for no class.
    """
    images = _images(dataset, where)
    step = max(1, len(images) // NUM_SAMPLES)
    for image in images[::step][:NUM_SAMPLES]:
        _check_label_map(_label_map_of(image, dataset), image, dataset, where)


def _images(dataset: Any, where: str) -> list[Path]:
    """Return the images of a data set, as it would list them."""
    folder = Path(dataset.data_prefix.get('img_path') or '')
    if dataset.ann_file and Path(dataset.ann_file).is_file():
        names = Path(dataset.ann_file).read_text(encoding='utf-8').split('\n')
        images = [folder / (name.strip() + dataset.img_suffix) for name in names if name.strip()]
        absent = [image for image in images if not image.is_file()]
        if absent:
            raise DataError(
                f'{dataset.ann_file} lists {absent[0].name}, which does not exist. Looked for: '
                f'{absent[0].absolute()}. The file should have one name a line, without ending.'
            )
    else:
        images = sorted(folder.rglob(f'*{dataset.img_suffix}'))
    if not images:
        endings = Counter(file.suffix for file in folder.rglob('*') if file.is_file())
        has = listing([f'{count} {ending}' for ending, count in endings.most_common(3)])
        raise DataError(
            f'{where} has no images: {folder.absolute()} has no file that ends in '
            f'{dataset.img_suffix!r} (it has {has or "no files"}). Set img_suffix to the ending of '
            'your images.'
        )
    return images


def _label_map_of(image: Path, dataset: Any) -> Path:
    """Return the path at which the data set expects the label map of an image."""
    name = image.relative_to(dataset.data_prefix.get('img_path') or '').as_posix()
    stem = name.removesuffix(dataset.img_suffix)
    return Path(dataset.data_prefix['seg_map_path'] or '') / (stem + dataset.seg_map_suffix)


def _check_label_map(path: Path, image: Path, dataset: Any, where: str) -> None:
    """Raise `DataError` unless a label map exists and holds classes only."""
    if not path.is_file():
        raise DataError(
            f'The image {image} has no label map. Looked for: {path.absolute()}. A map has the '
            f'name of its image, with seg_map_suffix={dataset.seg_map_suffix!r} instead of '
            f'img_suffix={dataset.img_suffix!r}.'
        )
    try:
        with Image.open(path) as opened:
            labels = np.asarray(opened)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f'The label map {path} cannot be read as an image: {error}') from error
    if labels.ndim != 2:
        raise DataError(
            f'The label map {path} has {labels.shape[2]} channels. A map has one, whose values '
            'are the numbers of the classes; colours must be turned into numbers first.'
        )
    # A data set of which a part of the classes is used maps the numbers of all of them.
    source = type(dataset).METAINFO if dataset.label_map else dataset.metainfo
    classes = source['classes']
    zero = int(dataset.reduce_zero_label)
    last = len(classes) - 1 + zero
    values = np.unique(labels)
    wrong = values[(values > last) & (values != dataset.ignore_index)]
    if len(wrong):
        meaning = f'0 means unlabelled, 1 to {last} the classes' if zero else f'0 to {last}'
        raise DataError(
            f'The label map {path} has the values {listing(wrong.tolist())}, which stand for no '
            f'class of {where}. With {len(classes)} classes ({listing(classes)}) and '
            f'reduce_zero_label={bool(zero)}, expected: {meaning}; {dataset.ignore_index} is '
            'ignored. Does the class list lack some, or is reduce_zero_label wrong?'
        )
