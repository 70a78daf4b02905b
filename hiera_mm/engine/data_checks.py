"""Is the data there, and is it what the config says? Asked before any long work."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image, UnidentifiedImageError
from torch import nn

from ..errors import ConfigError, DataError, listing
from .config import as_list

# Parts of a model whose `num_classes` means something else than the classes of the data set.
_OTHER_CLASSES = ('backbone', 'neck', 'rpn_head', 'semantic_head')
_NUM_SAMPLES = 8


def check_data(cfg: Config, splits: Sequence[str]) -> tuple[str, ...] | None:
    """Check the files and classes of the data sets in a config.

    Local files of data sets that derive from mmengine's `BaseDataset` are looked at: folders,
    annotation files, a few of the images, and, for COCO files and label maps, the classes.

    Args:
        cfg: The config.
        splits: Which data loaders: ``'train'``, ``'val'``, ``'test'``. Those that the config lacks
            are passed over.

    Returns:
        The class names of the first data set that has any.

    Raises:
        ConfigError: If a data set cannot be built from its config.
        DataError: If data is missing, damaged, or does not match the classes in the config.
    """
    found: tuple[str, ...] | None = None
    read: dict[Path, _CocoFile] = {}  # a COCO file can be large, and val and test share one
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for dataset_cfg in _leaves(loader.get('dataset')):
            where = f'{split}_dataloader.dataset'
            dataset = _build(dataset_cfg, where, cfg)
            if dataset is None or getattr(dataset, 'backend_args', None):
                continue  # not mmengine's, or on a remote store
            _check_files(dataset, where, cfg)
            classes = dataset.metainfo.get('classes')
            if isinstance(classes, str):
                raise DataError(
                    f'{where}: classes is the text {classes!r}; a tuple of names was expected. '
                    f'For a single class, write classes=({classes!r},).'
                )
            if hasattr(dataset, 'COCOAPI'):
                path = Path(dataset.ann_file)
                if path not in read:
                    read[path] = _read_coco(path, needs_annotations=split != 'test')
                _check_coco_images(read[path], dataset, where)
                _check_categories(read[path], dataset, where, training=split == 'train')
            elif hasattr(dataset, 'seg_map_suffix') and 'seg_map_path' in dataset.data_prefix:
                images = _images(dataset, where)
                for image in images[:: max(1, len(images) // _NUM_SAMPLES)][:_NUM_SAMPLES]:
                    _check_label_map(image, dataset, where)
            if found is None and classes and not getattr(dataset, 'return_classes', False):
                found = tuple(classes)
        for evaluator in as_list(cfg.get(f'{split}_evaluator')):
            path = evaluator.get('ann_file')
            if path and not evaluator.get('backend_args') and not Path(path).is_file():
                raise DataError(
                    f'{split}_evaluator.ann_file {path} does not exist (looked for '
                    f'{Path(path).absolute()}). It is the same file as the ann_file of '
                    f'{split}_dataloader.dataset, with the data root before it.'
                )
    return found


def check_heads(model: nn.Module, classes: Sequence[str]) -> None:
    """Compare the classes that the heads of a model predict with those that the data has.

    Heads for other classes may be meant, for edges or for anything that is an object, and are
    worth a warning. A model of which no head has enough classes cannot be trained.

    Args:
        model: The built model.
        classes: Names of the classes.

    Raises:
        ConfigError: If every head has fewer classes than the data.
    """
    heads = {
        name: module.num_classes
        for name, module in model.named_modules()
        if type(getattr(module, 'num_classes', None)) is int
        and not any(p in _OTHER_CLASSES or p.startswith('loss') for p in name.split('.'))
    }
    wrong = [f'model.{name}.num_classes is {n}' for name, n in heads.items() if n != len(classes)]
    if not wrong:
        return
    message = (
        f'The data has {len(classes)} classes ({listing(classes)}), but {"; ".join(wrong)}. Set '
        f'num_classes={len(classes)} there'
    )
    if max(heads.values()) < len(classes):
        raise ConfigError(f'{message}.')
    print_log(f'{message} unless it is meant.', logger='current', level=logging.WARNING)


def _leaves(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, Mapping):
        return
    inner = as_list(dataset.get('dataset')) + as_list(dataset.get('datasets'))
    for item in inner:
        yield from _leaves(item)
    if not inner:
        yield dataset


def _build(dataset: Mapping[str, Any], where: str, cfg: Config) -> BaseDataset | None:
    """Build a data set without reading its files; None if it is not a `BaseDataset`."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = dataset['type']
            kind = registry.get(kind) if isinstance(kind, str) else kind
        if kind is None or not issubclass(kind, BaseDataset):
            return None
        root = dataset.get('data_root')
        if root and not dataset.get('backend_args') and not Path(root).is_dir():
            raise DataError(_missing(Path(root), f'{where}.data_root', 'folder', dataset, cfg))
        try:
            return DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []})
        except (AssertionError, TypeError, ValueError, OSError) as error:
            raise ConfigError(f'{where}: {kind.__name__} cannot be set up: {error}') from error


def _check_files(dataset: BaseDataset, where: str, cfg: Config) -> None:
    """Raise `DataError` unless annotation file and image folders exist."""
    layout = {
        'data_root': dataset.data_root,
        'ann_file': dataset.ann_file,
        'data_prefix': dataset.data_prefix,
    }
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        path = Path(dataset.ann_file)
        raise DataError(_missing(path, f'{where}.ann_file', 'annotation file', layout, cfg))
    for key, prefix in dataset.data_prefix.items():
        if prefix and not Path(prefix).is_dir():
            name = f'{where}.data_prefix.{key}'
            raise DataError(_missing(Path(prefix), name, 'folder', layout, cfg))


def _missing(path: Path, key: str, kind: str, layout: Mapping[str, Any], cfg: Config) -> str:
    """Say what is missing, where it was looked for, and how the data should lie."""
    root = str(layout.get('data_root') or '')
    text = f'The {kind} {path} does not exist.\nLooked for: {path.absolute()}\nNamed by: {key}'
    if not path.is_absolute():
        text += f'\nRelative paths start from the current folder, {Path.cwd()}.'
    expected = []
    if layout.get('ann_file'):
        expected.append(f'{layout["ann_file"]}  (annotations)')
    expected += [f'{prefix}  ({name})' for name, prefix in layout.get('data_prefix', {}).items()]
    if expected:
        lines = '\n  '.join(line.removeprefix(root).lstrip('/') for line in expected)
        text += f'\nExpected in {root or "the current folder"}:\n  {lines}'
    variable = cfg.get('data_root')
    if variable and root and str(variable).rstrip('/') != root.rstrip('/'):
        text += (
            f'\nThe config sets data_root = {variable!r}, but this data set was made before that, '
            'from another value: change the line in a copy of the config instead of building upon '
            'it, or set the data_root of each data set.'
        )
    return text


@dataclass(frozen=True)
class _CocoFile:
    """What the checks need to know of a COCO file, which may be too large to be kept.

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


def _read_coco(path: Path, needs_annotations: bool) -> _CocoFile:
    """Read a COCO file; raise `DataError` if it is not JSON or not in COCO format."""
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
    lists = ['images', 'categories'] + ['annotations'] * needs_annotations
    top = content if isinstance(content, dict) else {}
    missing = [key for key in lists if not isinstance(top.get(key), list)]
    if missing:
        has = listing(list(content)) if content is top else type(content).__name__
        raise DataError(
            f'Annotation file {path} is JSON, but not in COCO format: it needs lists called '
            f'{listing(missing)} at the top, and has {has}.'
        )
    images = content['images']
    step = max(1, len(images) // _NUM_SAMPLES)
    try:
        names = {category['id']: category['name'] for category in content['categories']}
        labels = [
            names.get(item['category_id'])
            for annotation in content.get('annotations') or ()
            # A panoptic file has one annotation for each image, with its segments inside.
            for item in annotation.get('segments_info', [annotation])
        ]
        samples = [image['file_name'] for image in images[::step][:_NUM_SAMPLES]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'Annotation file {path} is not in COCO format: an image, annotation or category has '
            f'no {error}.'
        ) from error
    return _CocoFile(path, list(names.values()), Counter(labels), samples)


def _check_coco_images(file: _CocoFile, dataset: BaseDataset, where: str) -> None:
    """Raise `DataError` unless a few of the images are where the data set will look for them."""
    if not file.samples:
        raise DataError(f'Annotation file {file.path} lists no images.')
    folder = Path(dataset.data_prefix.get('img') or '')
    for name in file.samples:
        if not (folder / name).is_file():
            raise DataError(
                f'{file.path} lists the image {name}, which is not in the image folder. Looked '
                f'for: {(folder / name).absolute()}. The folder is set by '
                f'{where}.data_prefix.img; file names in the JSON are relative to it.'
            )


def _check_categories(file: _CocoFile, dataset: BaseDataset, where: str, training: bool) -> None:
    """Compare the classes of a data set with the categories of its file.

    A class list may leave categories out, which is worth a warning. A class that the file lacks is
    an error, since mmdet would quietly train on what is left; so is another order, since mmdet
    numbers classes in the order of the file and every name would be wrong; so is a training
    without annotations.
    """
    classes = list(dataset.metainfo.get('classes') or ())
    missing = [name for name in classes if name not in file.categories]
    unused = [name for name in file.categories if name not in classes]
    both = (
        f'\nClasses in the config ({len(classes)}): {listing(classes, 20)}'
        f'\nCategories in the file ({len(file.categories)}): {listing(file.categories, 20)}'
    )
    key = f'{where}.metainfo.classes'
    if missing:
        raise DataError(
            f'The classes of {where} do not match {file.path}.{both}'
            f'\nOnly in the config: {listing(missing)}'
            f'\nOnly in the file: {listing(unused) or "none"}'
            f'\nSpell {key} as in the file; upper and lower case count.'
        )
    ordered = [name for name in file.categories if name in classes]
    # A data set with its own way of reading may number its classes in its own way.
    reader = next(kind for kind in type(dataset).__mro__ if 'load_data_list' in vars(kind))
    if ordered != classes and reader.__name__ == 'CocoDataset':
        raise DataError(
            f'The classes of {where} stand in another order than in {file.path}, and mmdet '
            f'numbers them in the order of the file, so that names would be mixed up.{both}'
            f'\nWrite {key} = {tuple(ordered)}.'
        )
    if unused:
        print_log(
            f'{where} leaves out {len(unused)} categories of {file.path}: {listing(unused)}',
            logger='current',
            level=logging.WARNING,
        )
    if training and not any(file.annotations[name] for name in classes):
        raise DataError(f'{file.path} has no annotation of any class, so nothing can be learnt.')


def _images(dataset: Any, where: str) -> list[Path]:
    """Return the images of an mmseg data set, as it would list them."""
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


def _check_label_map(image: Path, dataset: Any, where: str) -> None:
    """Raise `DataError` unless an image has a label map that holds classes only."""
    name = image.relative_to(dataset.data_prefix.get('img_path') or '').as_posix()
    stem = name.removesuffix(dataset.img_suffix)
    path = Path(dataset.data_prefix['seg_map_path'] or '') / (stem + dataset.seg_map_suffix)
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
