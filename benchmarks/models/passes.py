"""What is timed of a config: a prediction from file to result, or a training iteration."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import nn

from benchmarks.models.objects import show_objects
from benchmarks.models.parts import Divide, undivided
from demo.shapes.files import write_image
from demo.shapes.scenes import LEAST_SIDE, draw_scene
from hiera_mm.cost.measure import precision
from hiera_mm.engine.config import as_list, type_name, walk
from hiera_mm.errors import ConfigError, UserError
from hiera_mm.trial import models
from hiera_mm.trial.batches import BATCH, processed_batch
from hiera_mm.trial.configs import Size, copied, test_size
from hiera_mm.trial.models import in_scope


class Prediction:
    """One image, from a file on the disk to what the model predicts for it.

    Args:
        cfg: A config that :func:`hiera_mm.trial.configs.read` returned.
        photo: The image file.
        size: Height and width to which the pipeline resizes; None for what the config says.
        device: A torch device.
        dtype: ``'float32'``, or ``'bfloat16'`` for mixed precision.
        objects: How many objects a detector sees, at most.

    Raises:
        ConfigError: If a file alone is not enough for this model.
    """

    def __init__(
        self, cfg: Config, photo: Path, size: Size | None, device: str, dtype: str, objects: int
    ) -> None:
        self.images = 1
        self._photo, self._scope = photo, cfg.default_scope
        self._device, self._dtype = device, dtype
        self._pipeline = pipeline_of(cfg, size)
        self.model = _build(cfg, device).eval()
        if cfg.default_scope == 'mmdet':
            show_objects(self.model, objects)
        try:
            with in_scope(self._scope):
                data = self._pipeline(photo)
                inputs = self.model.data_preprocessor(data, False)['inputs']
                self.size = tuple(inputs.shape[-2:])
            results = self.run()
        except Exception as error:
            raise ConfigError(
                f'{cfg.filename}: the first prediction, of an image file and nothing else, failed: '
                f'{type(error).__name__}: {error}'
            ) from error
        found = getattr(results[0], 'pred_instances', None)
        self.detections = None if found is None else len(found)

    def run(self, divide: Divide = undivided) -> Sequence[Any]:
        """Predict; return the samples with their predictions."""
        with in_scope(self._scope), torch.no_grad():
            with divide('pipeline'):
                data = self._pipeline(self._photo)
            with precision(self._device, self._dtype):
                return as_list(self.model.test_step(data))


class Iteration:
    """A training iteration of a made-up batch: losses, gradients, and a step of AdamW.

    Args:
        cfg: A config that :func:`hiera_mm.trial.configs.read` returned.
        size: Height and width of the images; None for those of the config's test.
        device: A torch device.
        dtype: ``'float32'``, or ``'bfloat16'`` for mixed precision.

    Raises:
        ConfigError: If the config has no size of its own, or a model of several images at once.
    """

    def __init__(self, cfg: Config, size: Size | None, device: str, dtype: str) -> None:
        self.images, self.size, self.detections = BATCH, size or test_size(cfg), None
        self._scope, self._device, self._dtype = cfg.default_scope, device, dtype
        self.model = _build(cfg, device).train()
        with in_scope(self._scope):
            self._data = processed_batch(self.model, cfg, self.size, count=BATCH, training=True)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def run(self, divide: Divide = undivided) -> None:
        """Train on the batch once."""
        with in_scope(self._scope):
            with divide('forward'), precision(self._device, self._dtype):
                total, _ = self.model.parse_losses(self.model(**self._data, mode='loss'))
            with divide('backward'):
                total.backward()
            with divide('optimizer'):
                self._optimizer.step()
                self._optimizer.zero_grad()


def _build(cfg: Config, device: str) -> nn.Module:
    return models.build(cfg.model, cfg.default_scope).to(device)


def write_photo(file: Path, size: Size) -> None:
    """Write a made-up photo as JPEG: coloured shapes, textures and sensor noise."""
    if min(size) < LEAST_SIDE:
        raise UserError(f'a side of the photo must be at least {LEAST_SIDE} pixels, got {size}')
    write_image(file, draw_scene(np.random.default_rng(0), size).image)


def pipeline_of(cfg: Config, size: Size | None = None) -> Callable[[Path], dict[str, Any]]:
    """Build the test pipeline of a config for images of which nothing but the file is known.

    Args:
        cfg: A config of mmdet or mmseg.
        size: Height and width that images are resized to; None for what the config says.

    Returns:
        What reads an image file and makes a batch of it, as a data loader does.

    Raises:
        ConfigError: If the config has no test pipeline, or `size` is given and it does not resize.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    owner = next((node for node in walk(loader.get('dataset')) if 'pipeline' in node), None)
    if owner is None:
        raise ConfigError(f'{cfg.filename} has no test pipeline, through which an image could go.')
    # There is no truth to load: it is only scored against.
    steps = [copied(step) for step in owner['pipeline'] if 'Annotations' not in type_name(step)]
    if size is not None:
        steps = _resizing(steps, size, cfg.filename)
    with in_scope(cfg.default_scope):
        importlib.import_module(f'{cfg.default_scope}.datasets')
        compose = Compose(steps)
    return lambda file: pseudo_collate([compose(dict(img_path=str(file), img_id=0))])


def _resizing(steps: list[dict[str, Any]], size: Size, name: str) -> list[dict[str, Any]]:
    """Let a pipeline resize to a size, and pad to no other."""
    scale = size[::-1]  # the toolboxes' width and height
    found = False
    for index, step in enumerate(steps):
        if 'Resize' in type_name(step):
            steps[index] = dict(type='Resize', scale=scale, keep_ratio=False)
            found = True
        elif type_name(step).endswith('Pad') and 'size' in step:
            step['size'] = scale
    if not found:
        raise ConfigError(
            f'{name} does not resize images in its test pipeline, so --size cannot be had.'
        )
    return steps
