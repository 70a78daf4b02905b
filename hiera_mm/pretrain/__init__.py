"""Pretraining without labels: the masked autoencoder, its images, its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.registry import HOOKS

from ..errors import ConfigError
from .images import RandomAreaCrop, UnlabelledImages
from .mae import HieraMAE, MAEOutput

__all__ = ['HieraMAE', 'MAEOutput', 'RandomAreaCrop', 'UnlabelledImages', 'pretrain']


@HOOKS.register_module('ReconstructionHook')
def build_reconstruction_hook(**options: Any) -> Any:
    """Build :class:`~.hooks.ReconstructionHook`; mmengine's hooks are heavy to import before."""
    from .hooks import ReconstructionHook

    return ReconstructionHook(**options)


@HOOKS.register_module('ImageProblemsHook')
def build_image_problems_hook(**options: Any) -> Any:
    """Build :class:`~.hooks.ImageProblemsHook`."""
    from .hooks import ImageProblemsHook

    return ImageProblemsHook(**options)


def pretrain(config: str | Path, images: str | Path | None = None, **options: Any) -> Any:
    """Pretrain the model of a config.

    Args:
        config: Config file, such as those of ``configs/pretrain``.
        images: Folder of images, in place of the config's ``train_dataloader.dataset.data_root``.
        **options: As for :func:`hiera_mm.engine.train`.

    Returns:
        The runner, after training.

    Raises:
        UserError: As :func:`hiera_mm.engine.train`.
    """
    from ..engine import train
    from ..engine.config import read_overrides

    overrides = read_overrides(options.pop('cfg_options', None) or {})
    if images is not None:
        if not str(images):
            raise ConfigError('--images is empty; name a folder of images.')
        overrides['train_dataloader.dataset.data_root'] = str(images)
    return train(config, cfg_options=overrides, **options)
