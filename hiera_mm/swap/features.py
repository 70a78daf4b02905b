"""What a backbone gives to those that read it, and the stages of Hiera that take its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..engine.launch import replace_sync_norms
from ..errors import ConfigError
from ..network.trunk import STRIDES
from ..network.variants import NUM_STAGES
from ..trial.batches import BATCH
from ..trial.configs import RGB, copied
from ..trial.models import import_models, without_weights

SIDE = 256  # pixels; what comes out tells the strides up to 64
DEEP_STRIDE = 16  # a last output finer than this comes from a dilated backbone, or a decoder


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
    image = torch.zeros(BATCH, backbone.get('in_channels', RGB), height, width)
    try:
        found, tested = _run(backbone, scope, image)
    except Exception as error:
        raise ConfigError(
            f'{name} cannot be built and run here, so there is no telling what it gives: '
            f'{type(error).__name__}: {error}'
        ) from error
    features = _features(found, name, width)
    counts = [1 if isinstance(maps, Tensor) else len(maps) for maps in (found, tested)]
    if counts[0] != counts[1]:
        raise ConfigError(
            f'{name} gives {counts[0]} maps in training and {counts[1]} in testing, and its head '
            'is made for that'
        )
    if Feature(channels=RGB, stride=1) in features:
        raise ConfigError(
            f'{name} gives the image itself beside its features, for a neck '
            'that runs backbones of its own on it'
        )
    return features


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
    for given in (maps, maps[0]) if len(maps) == 1 else (maps,):
        try:
            (found,) = _run(neck, scope, given, modes=(True,))
        except Exception as error:
            failure = error
            continue
        return _features(found, 'its neck', SIDE)
    raise ConfigError(f'its neck cannot be built and run here: {failure}') from failure


def numbers_as_hiera(backbone: Mapping[str, Any], scope: str) -> bool:
    """Tell whether a backbone numbers its stages as Hiera does: 0 at stride 4, 1 at stride 8.

    ResNet and Swin do, dilated or not. Darknet counts its stem, a plain ViT its blocks.

    Args:
        backbone: Its config.
        scope: The toolbox's scope.
    """
    try:
        first = emitted({**backbone, 'out_indices': (0, 1)}, scope)
    except ConfigError:
        return False
    return [feature.stride for feature in first] == list(STRIDES[:2])


def choose_stages(
    features: Sequence[Feature], asked: Sequence[int] | None, main: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose a stage and a stride for each output of the old backbone.

    Backbones that number their stages as Hiera does keep the numbers. Other outputs of growing
    stride are met by the stage of that stride. Where strides repeat, or the last one is fine, they
    do not tell how deep an output is: then the last output is the last stage, the one before it the
    stage before, and so on, each resized to the stride that is expected; and the one output that
    the main head reads is the last stage wherever it stands, as networks of several branches give
    it first. No output gets finer than stride 4: what Hiera knows of smaller things is in there.

    Args:
        features: What the old backbone gives.
        asked: The ``out_indices`` of one that numbers its stages as Hiera does, else None.
        main: The output that the main head reads, if it reads one alone.

    Returns:
        The stage of each output, and its stride.
    """
    strides = [feature.stride for feature in features]
    rising = all(a < b for a, b in pairwise(strides))
    numbered = asked is not None and len(asked) == len(features)
    if numbered and all(0 <= stage < NUM_STAGES for stage in asked):
        stages = list(asked)
    elif len(strides) > 1 and strides[-1] >= DEEP_STRIDE and rising:
        # The last stage of at most this stride, or the first of all.
        stages = [max([0, *(i for i, own in enumerate(STRIDES) if own <= s)]) for s in strides]
    else:
        stages = [max(0, NUM_STAGES - len(strides) + place) for place in range(len(strides))]
    if main is not None and not rising:
        stages[main] = NUM_STAGES - 1
    return tuple(stages), tuple(max(STRIDES[0], stride) for stride in strides)


def _run(
    cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    scope: str,
    given: Tensor | tuple[Tensor, ...],
    modes: Sequence[bool] = (True, False),
) -> list[Any]:
    """Return what a module gives in each mode: in training and in testing."""
    import_models(scope)
    cfg = without_weights(copied(cfg))
    replace_sync_norms(cfg)

    def on(device: str) -> list[Any]:
        with torch.device(device):
            module = MODELS.build(copied(cfg))
            inputs = tree_map_only(Tensor, lambda tensor: tensor.to(device), given)
            found = []
            for mode in modes:
                module.train(mode)  # not chained: mmdet's ResNet returns nothing here
                found.append(module(inputs))
            return found

    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        try:
            return on('meta')
        except Exception:
            # Some compute with numbers while they are built, or keep tensors where they are.
            return on('cpu')


def _features(found: Any, name: str, width: int) -> tuple[Feature, ...]:
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
