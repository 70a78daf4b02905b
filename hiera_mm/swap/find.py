"""Configs that the installed toolboxes ship, and the backbones inside a config."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..engine.config import walk
from ..errors import ConfigError
from ..network.names import nearest

TOOLBOXES = ('mmdet', 'mmseg')


def configs_root(toolbox: str) -> Path:
    """Return the folder in which an installed toolbox keeps its configs."""
    # Not through `mmdet::...`: the forks would install the original toolboxes to find it.
    return Path(importlib.import_module(toolbox).__file__).parent / '.mim' / 'configs'


def shipped(toolbox: str) -> dict[str, Path]:
    """Return the configs that an installed toolbox ships, by name such as ``mmdet/dino/...``."""
    root = configs_root(toolbox)
    return {f'{toolbox}/{name}': file for name, file in configs_in(root).items()}


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
        config: A path, or a shipped config's name such as
            ``mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco``.

    Raises:
        ConfigError: If there is none; the nearest names are offered.
    """
    path = Path(config)
    if path.is_file():
        return path.absolute()
    name = path.with_suffix('').as_posix() if path.suffix == '.py' else path.as_posix()
    known: dict[str, Path] = {}
    for toolbox in TOOLBOXES:
        try:
            known |= shipped(toolbox)
        except ImportError:
            continue
    if name in known:
        return known[name]
    stems = {full.rpartition('/')[2]: full for full in known}
    raise ConfigError(
        f'There is no config {config}: neither a file ({path.absolute()}) nor one that '
        f'{" or ".join(TOOLBOXES)} ships.{nearest(name.rpartition("/")[2], stems)}'
    )


def owners(
    model: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Yield every part of a model's config that has a backbone of its own, with its path.

    A tracker's network for telling persons apart is left out: it sees cut-out persons, and its
    weights come from another training.
    """
    if isinstance(model, Mapping):
        if isinstance(model.get('backbone'), Mapping):
            yield path, model
        for key, value in model.items():
            if key not in ('backbone', 'reid'):
                yield from owners(value, (*path, key))
    elif isinstance(model, list | tuple):
        for index, value in enumerate(model):
            yield from owners(value, (*path, index))


def loads_masks(config: Mapping[str, Any]) -> bool:
    """Whether the annotations that a config loads for training have masks."""
    return any(
        node.get('with_mask', 'LoadPanopticAnnotations' in str(node.get('type')))
        for node in walk(config.get('train_dataloader'))
    )
