"""Is the data there, and is it what the config says? Asked before any long work.

The toolboxes have dozens of data sets, each with its own way of reading, and users write more. So
what looks missing here is tried: a data set that gives its samples all the same is not refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, METRICS, DefaultScope
from torch import nn

from ..errors import ConfigError, DataError, UserError, listing
from .config import as_list, walk, warn

# Parts of a model whose `num_classes` means something else than the classes of the data set.
_OTHER_CLASSES = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'reid')
_NUM_SAMPLES = 8
_UNLABELLED = 255  # in label maps, where the config does not say


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
        where = f'{split}_dataloader.dataset'
        for dataset_cfg in _leaves(loader.get('dataset')):
            try:
                dataset = _build(dataset_cfg, where, cfg)
                if dataset is None:
                    continue
                _check_files(dataset, where, cfg)
                coco = _check_coco(dataset, where, read) if _is_coco(dataset) else None
            except UserError as error:
                try:
                    _load_some(dataset_cfg, where, cfg)
                except UserError as failure:
                    # The constructor may only have disliked how `_build` called it.
                    raise (failure if isinstance(error, ConfigError) else error) from failure
                if isinstance(error, DataError):
                    warn(f'{error}\nIts samples can be loaded all the same.')
                continue
            if coco is not None:
                _check_categories(coco, dataset, where, training=split == 'train')
            elif hasattr(dataset, 'reduce_zero_label') and 'seg_map_path' in dataset.data_prefix:
                _check_label_maps(dataset, dataset_cfg, where, cfg, training=split == 'train')
            classes = _classes(dataset)
            if found is None and classes and not getattr(dataset, 'return_classes', False):
                found = tuple(classes)
        for evaluator in as_list(cfg.get(f'{split}_evaluator')):
            _check_evaluator(evaluator, split, cfg)
    return found


def check_heads(model: nn.Module, classes: Sequence[str]) -> None:
    """Warn of heads that predict another number of classes than the data has.

    It may be meant: for things without stuff, for edges, for anything that is an object.

    Args:
        model: The built model.
        classes: Names of the classes.
    """
    wrong = [
        f'model.{name}.num_classes is {module.num_classes}'
        for name, module in model.named_modules()
        if type(getattr(module, 'num_classes', None)) is int
        and module.num_classes != len(classes)
        and not any(p in _OTHER_CLASSES or p.startswith('loss') for p in name.split('.'))
    ]
    if wrong:
        warn(
            f'The data has {len(classes)} classes ({listing(classes)}), but {"; ".join(wrong)}. '
            f'Set num_classes={len(classes)} there unless it is meant.'
        )


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
    """Build a data set without reading its files; None if it is no `BaseDataset`, or not local."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = dataset.get('type')
            kind = registry.get(kind) if isinstance(kind, str) else kind
        if not isinstance(kind, type) or not issubclass(kind, BaseDataset):
            return None
    built = _build_as(dataset, where, cfg, lazy_init=True, pipeline=[])
    paths = (built.ann_file, *built.data_prefix.values())
    remote = getattr(built, 'backend_args', None) or any('://' in str(path) for path in paths)
    return None if remote else built


def _build_as(dataset: Mapping[str, Any], where: str, cfg: Config, **changes: Any) -> BaseDataset:
    """Build a data set as the config has it, but for `changes`."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            return DATASETS.build({**dataset, **changes})
        except Exception as error:  # whatever a data set may raise
            raise ConfigError(f'{where}: {dataset["type"]} cannot be set up: {error}') from error


def _some(items: Sequence[Any]) -> Sequence[Any]:
    """Return a few items, spread over all."""
    return items[:: max(1, len(items) // _NUM_SAMPLES)][:_NUM_SAMPLES]


def _load_some(dataset: Mapping[str, Any], where: str, cfg: Config) -> None:
    """Build a data set and load a few of its samples; raise `UserError` if it cannot be done."""
    built = _build_as(dataset, where, cfg)
    try:
        for index in _some(range(len(built))):
            built[index]
    except Exception as error:  # whatever a data set may raise
        raise DataError(f'{where}: a sample cannot be loaded: {error}') from error


def _classes(dataset: BaseDataset) -> Sequence[str]:
    """Return the class names of a data set; a text that was given for them is one class."""
    classes = dataset.metainfo.get('classes') or ()
    return (classes,) if isinstance(classes, str) else classes


def _check_files(dataset: BaseDataset, where: str, cfg: Config) -> None:
    """Raise `DataError` unless annotation file and image folders exist."""
    wanted = [('ann_file', 'annotation file', dataset.ann_file)]
    wanted += [(f'data_prefix.{k}', 'folder', path) for k, path in dataset.data_prefix.items()]
    root = dataset.data_root
    for key, kind, path in wanted:
        if not path or not isinstance(path, str | Path) or Path(path).exists():
            continue
        if root and not Path(root).exists() and Path(root) in (Path(path), *Path(path).parents):
            key, kind, path = 'data_root', 'folder', root
        raise DataError(_missing(Path(path), f'{where}.{key}', kind, dataset, cfg))


def _missing(path: Path, key: str, kind: str, dataset: BaseDataset, cfg: Config) -> str:
    """Say what is missing, where it was looked for, and how the data should lie."""
    root = str(dataset.data_root or '')
    text = f'The {kind} {path} does not exist.\nLooked for: {path.absolute()}\nNamed by: {key}'
    if not path.is_absolute():
        text += f'\nRelative paths start from the current folder, {Path.cwd()}.'
    expected = []
    if dataset.ann_file:
        expected.append(f'{dataset.ann_file}  (annotations)')
    expected += [
        f'{prefix}  ({name})'
        for name, prefix in dataset.data_prefix.items()
        if str(prefix).rstrip('/') not in ('', root.rstrip('/'))
    ]
    if expected:
        lines = '\n  '.join(line.removeprefix(root).lstrip('/') for line in expected)
        text += f'\nExpected in {root or "the current folder"}:\n  {lines}'
    variable = cfg.get('data_root')
    if variable and root and str(variable).rstrip('/') != root.rstrip('/'):
        text += (
            f'\ndata_root is {variable!r} in the config, but this data set has another. A data set '
            'of a base config does not follow a later data_root: change the line in a copy of that '
            'config, or set the data_root of each data set.'
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


def _definer(dataset: BaseDataset, method: str) -> str:
    """Return the name of the class that a data set has a method from."""
    return next(kind.__name__ for kind in type(dataset).__mro__ if method in vars(kind))


def _is_coco(dataset: BaseDataset) -> bool:
    """Whether a data set reads its file as `CocoDataset` does, and not in a way of its own."""
    return _definer(dataset, 'load_data_list') == 'CocoDataset'


def _check_coco(dataset: BaseDataset, where: str, read: dict[Path, _CocoFile]) -> _CocoFile:
    """Read a COCO file, unless it was read; raise `DataError` if it or an image is missing."""
    path = Path(dataset.ann_file)
    if path not in read:
        read[path] = _read_coco(path)
    if not read[path].samples:
        raise DataError(f'Annotation file {path} lists no images.')
    folder = Path(dataset.data_prefix.get('img') or '')
    own_names = _definer(dataset, 'parse_data_info') not in ('CocoDataset', 'CocoPanopticDataset')
    for name in () if own_names else read[path].samples:
        if not (folder / name).is_file():
            raise DataError(
                f'{path} lists the image {name}, which is not in the image folder. Looked '
                f'for: {(folder / name).absolute()}. The folder is set by '
                f'{where}.data_prefix.img; file names in the JSON are relative to it.'
            )
    return read[path]


def _read_coco(path: Path) -> _CocoFile:
    """Read a COCO file; raise `DataError` if it is not JSON or not in COCO format."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f'Annotation file {path} cannot be read: {error}') from error
    except UnicodeDecodeError as error:
        raise DataError(f'Annotation file {path} is not JSON: it is not even text.') from error
    except json.JSONDecodeError as error:
        start = error.doc.lstrip()[:30]
        hint = f' It begins with {start!r}.' if start else ' It is empty.'
        raise DataError(
            f'Annotation file {path} is not JSON: {error.msg} at line {error.lineno}, column '
            f'{error.colno}.{hint} Was the download or the export interrupted?'
        ) from error
    lists = ['images', 'categories']  # without annotations a file serves for tests
    top = content if isinstance(content, dict) else {}
    missing = [key for key in lists if not isinstance(top.get(key), list)]
    if missing:
        has = listing(list(content)) if content is top else type(content).__name__
        raise DataError(
            f'Annotation file {path} is JSON, but not in COCO format: it needs lists called '
            f'{listing(missing)} at the top, and has {has}.'
        )
    try:
        names = {category['id']: category['name'] for category in content['categories']}
        labels = [
            names.get(item['category_id'])
            for annotation in content.get('annotations') or ()
            # A panoptic file has one annotation for each image, with its segments inside.
            for item in annotation.get('segments_info', [annotation])
        ]
        samples = [image['file_name'] for image in _some(content['images'])]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'Annotation file {path} is not in COCO format: an image, annotation or category has '
            f'no {error}.'
        ) from error
    return _CocoFile(path, list(names.values()), Counter(labels), samples)


def _check_categories(file: _CocoFile, dataset: BaseDataset, where: str, training: bool) -> None:
    """Compare the classes of a data set with the categories of its file.

    mmdet numbers the classes that it finds in the order of the file. Where that gives some the
    numbers of others, or it finds none, names would be wrong; that is an error. That one side has
    more, or that there is nothing to learn, is worth a warning.
    """
    classes = list(_classes(dataset))
    missing = [name for name in classes if name not in file.categories]
    unused = [name for name in file.categories if name not in classes]
    ordered = [name for name in file.categories if name in classes]
    if not ordered or ordered != classes[: len(ordered)]:
        key = f'{where}.metainfo.classes'
        raise DataError(
            f'The classes of {where} do not match {file.path}, and mmdet numbers those that it '
            'finds in the order of the file, so that names would be mixed up.'
            f'\nClasses in the config ({len(classes)}): {listing(classes, 20)}'
            f'\nCategories in the file ({len(file.categories)}): {listing(file.categories, 20)}'
            + (
                f'\nOnly in the config: {listing(missing)}\nOnly in the file: {listing(unused)}'
                f'\nSpell {key} as in the file; upper and lower case count.'
                if missing and unused
                else f'\nWrite {key} = {(*ordered, *missing)}.'
            )
        )
    if missing:
        warn(f'{file.path} lacks {len(missing)} classes of {where}: {listing(missing)}')
    if unused:
        warn(f'{where} leaves out {len(unused)} categories of {file.path}: {listing(unused)}')
    if training and not any(file.annotations[name] for name in classes):
        warn(f'{file.path} has no annotation of any class, so nothing is learnt from {where}.')


def _check_label_maps(
    lazy: Any, dataset_cfg: Mapping[str, Any], where: str, cfg: Config, training: bool
) -> None:
    """Load a few samples; raise `DataError` if one fails, or has labels that no head knows."""
    try:
        dataset = _build_as(dataset_cfg, where, cfg)
    except ConfigError as error:
        folder = Path(lazy.data_prefix.get('img_path') or '')
        endings = Counter(file.suffix for file in folder.rglob('*') if file.is_file())
        if any(folder.rglob(f'*{lazy.img_suffix}')):
            raise
        has = listing([f'{count} {ending}' for ending, count in endings.most_common(3)])
        raise DataError(
            f'{where} has no images: {folder.absolute()} has no file that ends in '
            f'{lazy.img_suffix!r} (it has {has or "no files"}). Set img_suffix to the ending of '
            'your images.'
        ) from error
    nodes = list(walk(cfg.get('model')))
    numbers = [node.get('num_classes') for node in nodes]
    count = max(len(_classes(dataset)), *(n for n in numbers if isinstance(n, int)), 0)
    ignored = {_UNLABELLED, dataset.ignore_index, *(node.get('ignore_index') for node in nodes)}
    for index in _some(range(len(dataset))):
        info = dataset.get_data_info(index)
        path = info.get('seg_map_path')
        try:
            sample = dataset[index]
        except Exception as error:  # whatever a pipeline may raise
            raise DataError(
                f'{where}: a sample cannot be loaded: {error}\nImage: {info.get("img_path")}\n'
                f'Label map: {path}\nA map has the name of its image, with '
                f'seg_map_suffix={dataset.seg_map_suffix!r} instead of '
                f'img_suffix={dataset.img_suffix!r}.'
            ) from error
        sample = sample.get('data_samples') if isinstance(sample, Mapping) else None
        labels = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
        if not training or not isinstance(labels, torch.Tensor) or not count:
            continue
        if labels.ndim != 3 or len(labels) != 1:
            warn(
                f'The label map {path} has the shape {tuple(labels.shape)} after '
                'loading. A map has one channel, whose values are the numbers of the classes; '
                'colours must be turned into numbers first.'
            )
            return
        wrong = [value for value in labels.unique().tolist() if value >= count]
        wrong = [value for value in wrong if value not in ignored]
        if wrong:
            raise DataError(
                f'The label map {path} has the labels {listing(wrong)} after '
                f'loading, which stand for no class. There are {count} classes, 0 to {count - 1} '
                f'({listing(_classes(dataset))}), with reduce_zero_label='
                f'{bool(dataset.reduce_zero_label)}, and {dataset.ignore_index} is ignored. Does '
                'the class list lack some, or is reduce_zero_label wrong?'
            )


def _check_evaluator(evaluator: Mapping[str, Any], split: str, cfg: Config) -> None:
    """Raise `DataError` if a metric cannot be built because its annotation file is missing."""
    path = evaluator.get('ann_file')
    if not path or evaluator.get('backend_args') or '://' in path or Path(path).is_file():
        return
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            METRICS.build(dict(evaluator))
    except Exception as error:  # whatever a metric may raise
        raise DataError(
            f'{split}_evaluator.ann_file {path} does not exist (looked for '
            f'{Path(path).absolute()}). It is the same file as the ann_file of '
            f'{split}_dataloader.dataset, with the data root before it.'
        ) from error
