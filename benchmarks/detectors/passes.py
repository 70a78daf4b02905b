"""What is timed of a config: a prediction from file to result, or a training iteration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from torch import nn

from benchmarks.detectors.clock import Divide, undivided
from benchmarks.detectors.objects import show_objects
from benchmarks.detectors.pipeline import test_pipeline
from hiera_mm.cost.batch import processed_batch
from hiera_mm.cost.measure import precision
from hiera_mm.cost.sizes import Size, test_size
from hiera_mm.engine.config import as_list
from hiera_mm.errors import ConfigError
from hiera_mm.swap import trial
from hiera_mm.swap.samples import BATCH
from hiera_mm.swap.trial import in_scope


class Pass(Protocol):
    """Something that a model does again and again.

    Attributes:
        model: The model.
        images: How many images it works on at once.
        size: Height and width of the images in the model.
        detections: How many objects it finds; None if it does not look for any.
    """

    model: nn.Module
    images: int
    size: Size
    detections: int | None

    def run(self, divide: Divide = undivided) -> object:
        """Do it once, each part in the context that `divide` gives for its name."""


class Prediction:
    """One image, from a file on the disk to what the model predicts for it.

    Args:
        cfg: A config that :func:`hiera_mm.cost.building.read` returned.
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
        self._pipeline = test_pipeline(cfg, size)
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
        cfg: A config that :func:`hiera_mm.cost.building.read` returned.
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
    return trial.build(cfg.model, cfg.default_scope, max_objects=None).to(device)
