"""What does a backbone give to those that read it? Found by building and running it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from ..engine.launch import replace_sync_norms
from ..errors import ConfigError
from .nested import copied
from .trial import import_models, without_weights

SIDE = 256  # pixels; what comes out tells the strides up to 64
RGB = 3
BATCH = 2  # norms over a batch need more than one value


@dataclass(frozen=True)
class Feature:
    """One map of features.

    Attributes:
        channels: Its channels.
        stride: Pixels for each step of it.
    """

    channels: int
    stride: int


def emitted(backbone: Mapping[str, Any], scope: str) -> tuple[Feature, ...]:
    """Return what a backbone gives while it is trained.

    Args:
        backbone: Its config.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.

    Raises:
        ConfigError: If it cannot be built and run here, or gives something else than maps.
    """
    name = f'its backbone {backbone.get("type")}'
    side = backbone.get('img_size', SIDE)  # plain ViTs often refuse any other
    height, width = side if isinstance(side, list | tuple) else (side, side)
    image = torch.zeros(BATCH, image_channels(backbone), height, width)
    try:
        found, tested = _run(backbone, scope, image)
    except Exception as error:
        raise ConfigError(
            f'{name} cannot be built and run here, so there is no telling what it gives: '
            f'{type(error).__name__}: {error}'
        ) from error
    features = _features(found, name, width)
    if _count(found) != _count(tested):
        raise ConfigError(
            f'{name} gives {_count(found)} maps in training and {_count(tested)} in testing, '
            'and its head is made for that'
        )
    if any(feature.channels == 3 and feature.stride == 1 for feature in features):
        raise ConfigError(
            f'{name} gives the image itself beside its features, for a neck '
            'that runs backbones of its own on it'
        )
    return features


def image_channels(backbone: Mapping[str, Any]) -> int:
    """Return how many channels the images have that a backbone takes."""
    return backbone.get('in_channels', RGB)


def emitted_by_neck(
    neck: Mapping[str, Any] | Sequence[Mapping[str, Any]], scope: str, features: Sequence[Feature]
) -> tuple[Feature, ...]:
    """Return what a neck makes of a backbone's features.

    Args:
        neck: Its config, or those of several in a row.
        scope: The toolbox's scope.
        features: What the backbone gives.

    Raises:
        ConfigError: If it cannot be built and run here, or gives something else than maps.
    """
    maps = tuple(
        torch.zeros(BATCH, f.channels, SIDE // f.stride, SIDE // f.stride) for f in features
    )
    # Those that make a pyramid of a single map mostly take it bare.
    ways = (maps, maps[0]) if len(maps) == 1 else (maps,)
    for given in ways:
        try:
            (found,) = _run(neck, scope, given, modes=(True,))
        except Exception as error:
            failure = error
            continue
        return _features(found, 'its neck', SIDE)
    raise ConfigError(f'its neck cannot be built and run here: {failure}') from failure


def _run(
    cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    scope: str,
    given: Tensor | tuple[Tensor, ...],
    modes: Sequence[bool] = (True, False),
) -> list[object]:
    """Return what a module gives in each mode: in training and in testing."""
    import_models(scope)
    cfg = without_weights(copied(cfg))
    replace_sync_norms(cfg)
    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        try:
            return _on('meta', cfg, given, modes)
        except Exception:
            # Some compute with numbers while they are built, or keep tensors where they are.
            return _on('cpu', cfg, given, modes)


def _on(
    device: str, cfg: Any, given: Tensor | tuple[Tensor, ...], modes: Sequence[bool]
) -> list[object]:
    with torch.device(device):
        module = MODELS.build(copied(cfg))
        if isinstance(given, Tensor):
            given = given.to(device)
        else:
            given = tuple(item.to(device) for item in given)
        found = []
        for mode in modes:
            module.train(mode)  # not chained: mmdet's ResNet returns nothing here
            found.append(module(given))
        return found


def _count(found: object) -> int:
    return 1 if isinstance(found, Tensor) else len(found)


def _features(found: object, name: str, width: int) -> tuple[Feature, ...]:
    maps = (found,) if isinstance(found, Tensor) else found
    if not isinstance(maps, list | tuple) or not all(
        isinstance(item, Tensor) and item.ndim == 4 for item in maps
    ):
        raise ConfigError(f'{name} gives something else than maps of features')
    return tuple(Feature(item.shape[1], _stride(width, item.shape[3])) for item in maps)


def _stride(width: int, steps: int) -> int:
    """Return the stride of a map; one more step at the edge does not change it."""
    power = 2 ** round(math.log2(width / steps))
    return power if abs(width / steps - power) < power / 10 else round(width / steps)
