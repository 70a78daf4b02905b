"""Is the data there, and is it what the config says? Asked before any long work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from ..errors import ConfigError, DataError, listing
from .coco_checks import check_categories, check_coco_images, read_coco
from .config import as_list
from .label_map_checks import check_label_maps

# Parts of a model whose `num_classes` means something else than the classes of the data set.
_OTHER_CLASSES = ('backbone', 'neck', 'rpn_head', 'semantic_head')


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
    summaries: dict[Path, Any] = {}  # a COCO file can be large, and val and test share one
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
                if path not in summaries:
                    summaries[path] = read_coco(path, needs_annotations=split != 'test')
                check_coco_images(summaries[path], dataset, where)
                check_categories(summaries[path], dataset, where, training=split == 'train')
            elif hasattr(dataset, 'seg_map_suffix') and 'seg_map_path' in dataset.data_prefix:
                check_label_maps(dataset, where)
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
    """Check that the heads of a model predict as many classes as the data has.

    Args:
        model: The built model.
        classes: Names of the classes.

    Raises:
        ConfigError: If a head has another `num_classes`.
    """
    wrong = {}
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        parts = name.split('.')
        if type(number) is not int or any(
            part in _OTHER_CLASSES or part.startswith('loss') for part in parts
        ):
            continue
        if number != len(classes):
            wrong[name] = number
    if wrong:
        heads = '; '.join(f'model.{name}.num_classes is {n}' for name, n in wrong.items())
        raise ConfigError(
            f'The data has {len(classes)} classes ({listing(classes)}), but {heads}. Set '
            f'num_classes={len(classes)} there.'
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
