"""Made-up batches of images of any height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..errors import ConfigError
from ..swap.find import loads_masks, owners
from ..swap.probe import RGB, image_channels
from ..swap.samples import Kind, make_batch
from .sizes import Size

IGNORED = 255


def processed_batch(
    model: nn.Module, cfg: Config, size: Size, *, count: int = 1, training: bool = False
) -> dict[str, Any]:
    """Make a batch as the model gets it: normalised, on its device, with a few objects.

    Args:
        model: The model that will run.
        cfg: Its config.
        size: Height and width of the images.
        count: Number of images: 1, or 2 in training.
        training: Whether to train on it.

    Returns:
        Keyword arguments for the model: ``inputs`` and ``data_samples``.

    Raises:
        ConfigError: If the model takes something else than a batch of images.
    """
    channels = [image_channels(owner['backbone']) for _, owner in owners(cfg.model)]
    kind = Kind(max(channels, default=RGB), loads_masks(cfg), side=min(size))
    batch = make_batch(model, cfg.default_scope, kind, training=training)
    images = batch['inputs']
    if not isinstance(images, list) or images[0].ndim != 3:
        raise ConfigError(
            f'{cfg.filename}: a {type(model).__name__} takes several views or frames at once; the '
            'cost of models that take single images can be measured.'
        )
    # Square ones are made longer: the objects stay where they are.
    batch = dict(
        inputs=[_grown(image, size, 0) for image in images[:count]],
        data_samples=_grown_samples(batch['data_samples'][:count], size),
    )
    return model.data_preprocessor(batch, training=training)


def _grown(image: Tensor, size: Size, value: int) -> Tensor:
    missing = (size[1] - image.shape[-1], size[0] - image.shape[-2])
    return F.pad(image, (0, missing[0], 0, missing[1]), value=value)


def _grown_samples(samples: Sequence[Any], size: Size) -> list[Any]:
    for sample in samples:
        shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        sample.set_metainfo(dict.fromkeys(shapes, size))
        for instances in (sample.get('gt_instances'), sample.get('ignored_instances')):
            if instances is not None and 'masks' in instances:
                instances.masks = instances.masks.pad(size)
        for name in ('gt_sem_seg', 'gt_edge_map', 'gt_depth_map'):
            pixels = sample.get(name)
            for key, plane in pixels.items() if pixels is not None else ():
                # A new one: a PixelData refuses planes of another size than it has.
                setattr(sample, name, type(pixels)(**{key: _grown(plane, size, IGNORED)}))
    return list(samples)


def batch_size(model: nn.Module) -> int:
    """Return how many images of a batch the model needs in training: 2 if it normalises over it."""
    norms = torch.nn.modules.batchnorm._BatchNorm
    return 2 if any(isinstance(m, norms) and m.training for m in model.modules()) else 1
