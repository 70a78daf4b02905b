"""From an image file to what a model gets: a made-up photo, and the test pipeline of a config."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate

from demo.shapes.files import write_image
from demo.shapes.scenes import LEAST_SIDE, draw_scene
from hiera_mm.cost.sizes import Size
from hiera_mm.engine.config import walk
from hiera_mm.errors import ConfigError, UserError
from hiera_mm.swap.nested import copied
from hiera_mm.swap.trial import in_scope

Pipeline = Callable[[Path], dict[str, Any]]
"""Reads an image file and returns a batch of it, as a data loader does."""


def write_photo(file: Path, size: Size) -> None:
    """Write a made-up photo: coloured shapes, textures and sensor noise.

    Args:
        file: File to write, `.jpg`.
        size: Height and width in pixels.

    Raises:
        UserError: If a side is too short for a scene.
    """
    if min(size) < LEAST_SIDE:
        raise UserError(f'a side of the photo must be at least {LEAST_SIDE} pixels, got {size}')
    write_image(file, draw_scene(np.random.default_rng(0), size).image)


def test_pipeline(cfg: Config, size: Size | None = None) -> Pipeline:
    """Build the test pipeline of a config for images of which nothing but the file is known.

    Args:
        cfg: A config of mmdet or mmseg.
        size: Height and width that images are resized to; None for what the config says.

    Raises:
        ConfigError: If the config has no test pipeline, or `size` is given and it does not resize.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    owner = next((node for node in walk(loader.get('dataset')) if 'pipeline' in node), None)
    if owner is None:
        raise ConfigError(f'{cfg.filename} has no test pipeline, through which an image could go.')
    # There is no truth to load: it is only scored against.
    steps = [copied(step) for step in owner['pipeline'] if 'Annotations' not in str(step['type'])]
    if size is not None:
        steps = _resizing(steps, size, cfg.filename)
    with in_scope(cfg.default_scope):
        importlib.import_module(f'{cfg.default_scope}.datasets')
        compose = Compose(steps)
    return lambda file: pseudo_collate([compose(dict(img_path=str(file), img_id=0))])


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _resizing(steps: list[dict[str, Any]], size: Size, name: str) -> list[dict[str, Any]]:
    """Let a pipeline resize to a size, and pad to no other."""
    scale = size[::-1]  # the toolboxes' width and height
    found = False
    for index, step in enumerate(steps):
        if 'Resize' in step['type']:
            steps[index] = dict(type='Resize', scale=scale, keep_ratio=False)
            found = True
        elif step['type'].endswith('Pad') and 'size' in step:
            step['size'] = scale
    if not found:
        raise ConfigError(
            f'{name} does not resize images in its test pipeline, so --size cannot be had.'
        )
    return steps
