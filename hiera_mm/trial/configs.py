"""Configs of the toolboxes: found, read, and asked about their backbones, masks and image size."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.config import (
    TOOLBOXES,
    check_scope,
    configs_near,
    load_config,
    resolve_arch,
    type_name,
    walk,
)
from ..errors import ConfigError, UserError, listing, nearest
from ..network.trunk import UNIT_PIXELS

RGB = 3

SEPARATE = ('reid', 'teacher_config')
"""Parts of a model that come from a training of their own, and keep their backbones."""

Keys = tuple[str | int, ...]
"""Where something stands in a config: keys, and places in lists."""

Size = tuple[int, int]
"""Height and width in pixels."""


def configs_root(toolbox: str) -> Path:
    """Return the folder in which an installed toolbox keeps its configs."""
    # Not through `mmdet::...`: the forks would install the original toolboxes to find it.
    return Path(importlib.import_module(toolbox).__file__).parent / '.mim' / 'configs'


def shipped() -> dict[str, Path]:
    """Return the configs that the installed toolboxes ship, by name such as ``mmdet/dino/...``."""
    found: dict[str, Path] = {}
    for toolbox in TOOLBOXES:
        try:
            root = configs_root(toolbox)
        except ImportError:
            continue
        found |= {f'{toolbox}/{name}': file for name, file in configs_in(root).items()}
    return found


def configs_in(folder: Path) -> dict[str, Path]:
    """Return the configs in a folder and below, without those that others build upon, by name."""
    found = {}
    for file in sorted(folder.rglob('*.py')):
        inside = file.relative_to(folder)
        if '_base_' not in inside.parts and file.name != '__init__.py':
            found[inside.with_suffix('').as_posix()] = file
    return found


def resolve(config: str | Path) -> Path:
    """Find the file of a config.

    Args:
        config: A path, or a shipped config's name such as ``mask-rcnn_r50_fpn_1x_coco``, with
            folders before it where several have that name.

    Raises:
        ConfigError: If there is none, and then the nearest names are offered, or several.
    """
    path = Path(config)
    if path.is_file():
        return path.absolute()
    name = path.as_posix().removesuffix('.py')
    known = shipped()
    named = [full for full in known if f'/{full}'.endswith(f'/{name}')]
    if len(named) == 1:
        return known[named[0]]
    if named:
        raise ConfigError(f'Several configs are called {config}; name one of {listing(named)}.')
    stems = {full.rpartition('/')[2]: full for full in known}
    stems |= {Path(file).stem: file for file in configs_near(path)}
    raise ConfigError(
        f'There is no config {config}: neither a file ({path.absolute()}) nor one that '
        f'{" or ".join(TOOLBOXES)} ships.{nearest(name.rpartition("/")[2], stems)}'
    )


def read(
    config: str | Path, cfg_options: Mapping[str, Any] | Sequence[str] | None = None
) -> Config:
    """Read a config of mmdet or mmseg whose model can be built without its weights.

    Args:
        config: A file, or a shipped config's name, as for :func:`resolve`.
        cfg_options: Values to override, as for :func:`hiera_mm.engine.config.load_config`.

    Raises:
        ConfigError: If it cannot be read, has no model, or belongs to another toolbox.
        CheckpointError: If ``arch='auto'`` and the weights that tell it cannot be read.
    """
    path = resolve(config)
    cfg = load_config(path, cfg_options=cfg_options)
    cfg.model = with_absolute_files(cfg.model, path)
    check_scope(cfg, path)
    resolve_arch(cfg)
    return cfg


def owners(model: Any, path: Keys = ()) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield every part of a model's config that has a backbone of its own, with its path.

    A tracker's network for telling persons apart, which sees cut-out persons, and the teacher of a
    distilled student are left out: their weights come from another training.
    """
    if isinstance(model, Mapping):
        if isinstance(model.get('backbone'), Mapping):
            yield path, model
        for key, value in model.items():
            if key not in ('backbone', *SEPARATE):
                yield from owners(value, (*path, key))
    elif isinstance(model, list | tuple):
        for index, value in enumerate(model):
            yield from owners(value, (*path, index))


def loads_masks(config: Mapping[str, Any]) -> bool:
    """Whether the annotations that a config loads for training have masks."""
    return any(
        node.get('with_mask', 'LoadPanopticAnnotations' in type_name(node))
        for node in walk(config.get('train_dataloader'))
    )


def image_channels(model: Mapping[str, Any]) -> int:
    """Return how many channels the images have that a model's backbones take."""
    return max((o['backbone'].get('in_channels', RGB) for _, o in owners(model)), default=RGB)


def copied(node: Any) -> Any:
    """Return a config with containers of its own; what they hold may not be copied (modules)."""
    if isinstance(node, Mapping):
        return {key: copied(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(copied(value) for value in node)
    return node


def with_absolute_files(node: Any, config: Path) -> Any:
    """Return a config in which files named from above it, as from its repository, are absolute.

    mmdet's distilled students name the config of their teacher so. What is found from the working
    directory stays as it is, and so do data sets, whose paths go behind their ``data_root``.

    Args:
        node: The config, or a part of it.
        config: The absolute path of its file.
    """
    if isinstance(node, Mapping):
        if 'type' in node and 'data_root' in node:
            return copied(node)
        return {key: with_absolute_files(value, config) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(with_absolute_files(value, config) for value in node)
    if isinstance(node, str) and Path(node).suffix and not _is_file(node):
        return next((str(f / node) for f in config.parents if _is_file(f / node)), node)
    return node


def _is_file(name: str | Path) -> bool:
    return os.path.isfile(name)  # noqa: PTH113  Path raises where a text is too long for a name


def parse_size(values: Sequence[int]) -> Size:
    """Return height and width of what was given as one side or as both.

    Args:
        values: One number, or height and width.

    Raises:
        UserError: If there are more numbers, or too small ones.
    """
    given = f'--size {" ".join(map(str, values))}'
    if len(values) not in (1, 2):
        raise UserError(
            f'{given}: a size is one number for a square or height and width, such as '
            '--size 800 1344. Repeat --size for several sizes.'
        )
    if min(values) < UNIT_PIXELS:
        raise UserError(f'{given}: a side must be at least {UNIT_PIXELS} pixels.')
    return values[0], values[-1]


def test_size(cfg: Config) -> Size:
    """Return the size of an image in the config's test, rounded up to multiples of 32.

    It is that to which images are padded, else that to which they are resized; of a longest and a
    shortest side, an image that is wider than high has both.

    Args:
        cfg: A config with a test pipeline.

    Raises:
        ConfigError: If the config tells neither.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    steps = list(walk(loader.get('dataset')))
    for kind, key in (('Pad', 'size'), ('Resize', 'scale')):
        sizes = [_size(step, key) for step in steps if type_name(step) == kind]
        known = [size for size in sizes if size is not None]
        if known:
            height, width = (-(-side // UNIT_PIXELS) * UNIT_PIXELS for side in known[-1])
            return height, width
    raise ConfigError(
        f'{cfg.filename} has no Resize with a scale and no Pad with a size in its test pipeline: '
        'say the size with --size HEIGHT WIDTH.'
    )


test_size.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _size(step: Mapping[str, Any], key: str) -> Size | None:
    """Return height and width that a step of a pipeline names, if it does."""
    value = step.get(key)
    sides = [value] * 2 if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    if not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    if step.get('keep_ratio'):
        return min(sides), max(sides)
    return sides[1], sides[0]  # the toolboxes' width and height
