"""The ways in which Hiera can take the place of a backbone, and what follows from each.

Each way is a function of the part of a model that has the backbone, what the backbone gives, the
toolbox's scope, and the options of Hiera other than those of its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from typing import Any

import torch

from ..backbone import Hiera
from ..errors import ConfigError
from ..network.trunk import STRIDES
from ..network.variants import NUM_STAGES
from . import probe
from .channels import channel_changes, output_changes
from .nested import Path, copied, put
from .probe import Feature
from .stages import choose_stages

KEEPS_CHANNELS = (
    'What reads the features was made for these very channels and strides, so the backbone gives '
    'them: 1x1 convolutions and resizing at its end.'
)
KEEPS_STRIDES = 'What reads the features was made for these strides.'
NECK_DROPPED = 'Hiera has a pyramid of its own: the neck that made one of a single map is left out.'
NECK_REPLACED = 'Hiera has a pyramid of its own, which an FPN reads.'


@dataclass(frozen=True)
class Change:
    """What is to become of the part of a model that has the backbone.

    Attributes:
        values: New values by their path in it.
        remarks: Why, by path.
    """

    values: dict[Path, Any]
    remarks: dict[Path, str] = field(default_factory=dict)


def with_own_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> Change:
    """Give Hiera's own channels, and tell those that read them.

    Args:
        owner: The config of the model, or of the part of it, that has the backbone.
        features: What the old backbone gives.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        options: Options of Hiera other than those of its outputs.
    """
    backbone = _backbone(owner, features, options)
    changes = channel_changes(owner, [f.channels for f in features], _channels(backbone))
    if owner.get('neck'):
        changes |= _changes_behind_neck(owner, features, backbone, changes, scope)
    remarks = {('backbone', 'out_strides'): KEEPS_STRIDES} if 'out_strides' in backbone else {}
    return Change({('backbone',): backbone, **changes}, remarks)


def _changes_behind_neck(
    owner: Mapping[str, Any],
    features: Sequence[Feature],
    backbone: Mapping[str, Any],
    changes: Mapping[Path, Any],
    scope: str,
) -> dict[Path, Any]:
    """Find what has to change in the heads when a neck hands on channels of the backbone."""
    new = copied(owner)
    put(new, changes)
    built = _built(backbone)
    given = [
        Feature(channels, stride)
        for channels, stride in zip(built.out_channels, built.strides, strict=True)
    ]
    try:
        before = probe.emitted_by_neck(owner['neck'], scope, features)
        after = probe.emitted_by_neck(new['neck'], scope, given)
    except ConfigError:
        return {}  # it may want more than features; then the trial tells
    old, new = ([feature.channels for feature in found] for found in (before, after))
    if old == new or len(old) != len(new):
        return {}
    return channel_changes({key: owner[key] for key in owner if key != 'neck'}, old, new)


def with_old_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> Change:
    """Give exactly what the old backbone gave, for readers whose channels are hard-wired.

    Args:
        owner: As for :func:`with_own_channels`.
        features: As for :func:`with_own_channels`.
        scope: As for :func:`with_own_channels`.
        options: As for :func:`with_own_channels`.
    """
    backbone = _backbone(owner, features, options)
    strides = tuple(feature.stride for feature in features)
    if 'out_strides' in backbone or strides != _strides(backbone):
        backbone['out_strides'] = strides
    backbone['out_channels'] = tuple(feature.channels for feature in features)
    return Change({('backbone',): _ordered(backbone)}, {('backbone',): KEEPS_CHANNELS})


def without_pyramid_neck(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> Change | None:
    """Leave out a neck that makes the pyramid that a plain ViT has not.

    Args:
        owner: As for :func:`with_own_channels`.
        features: As for :func:`with_own_channels`.
        scope: As for :func:`with_own_channels`.
        options: As for :func:`with_own_channels`.

    Returns:
        The change; None if there is no such neck.
    """
    neck = owner.get('neck')
    if not isinstance(neck, Mapping) or len({feature.stride for feature in features}) > 1:
        return None
    try:
        pyramid = probe.emitted_by_neck(neck, scope, features)
    except ConfigError:
        return None
    strides = [feature.stride for feature in pyramid]
    if strides[: len(STRIDES)] != list(STRIDES):
        return None
    if probe.image_channels(owner['backbone']) != probe.RGB:
        options = dict(options, in_channels=probe.image_channels(owner['backbone']))
    backbone = dict(type=Hiera.__name__, **options)
    if len(pyramid) == NUM_STAGES and scope == 'mmseg':
        # Heads of mmseg read maps of any channels.
        heads = {key: value for key, value in owner.items() if key != 'neck'}
        old = [feature.channels for feature in pyramid]
        return Change(
            {('backbone',): backbone, ('neck',): None}
            | channel_changes(heads, old, _channels(backbone)),
            {('neck',): NECK_DROPPED},
        )
    if len({feature.channels for feature in pyramid}) > 1:
        return None
    fpn = dict(
        type='FPN' if scope == 'mmdet' else 'mmdet.FPN',
        in_channels=list(_channels(backbone)),
        out_channels=pyramid[0].channels,
        num_outs=len(pyramid),
    )
    if neck.get('norm_cfg') is not None:
        fpn['norm_cfg'] = neck['norm_cfg']
    return Change({('backbone',): backbone, ('neck',): fpn}, {('neck',): NECK_REPLACED})


def without_outputs(owner: Mapping[str, Any], unread: Sequence[int]) -> Change:
    """Leave out outputs of a Hiera that nobody reads.

    Args:
        owner: The config of the model, or of the part of it, that has the Hiera.
        unread: The outputs, by place.

    Raises:
        ConfigError: If none would be left.
    """
    backbone = dict(owner['backbone'])
    channels = _channels(backbone)
    kept = [place for place in range(len(channels)) if place not in unread]
    if not kept:
        raise ConfigError('no loss depends on the backbone')
    changes = output_changes(owner, channels, unread)
    indices = backbone.get('out_indices', tuple(range(NUM_STAGES)))
    lists = {'out_indices': tuple(indices[place] for place in kept)}
    for key in ('out_strides', 'out_channels'):
        if key in backbone:
            values = backbone.pop(key)
            lists[key] = tuple(values[place] for place in kept)
    if _are_own(lists['out_indices'], lists.get('out_strides')):
        lists.pop('out_strides', None)
    return Change({('backbone',): _ordered(backbone | lists), **changes})


def _backbone(
    owner: Mapping[str, Any], features: Sequence[Feature], options: Mapping[str, Any]
) -> dict[str, Any]:
    head = owner.get('decode_head')
    main = head.get('in_index', -1) if isinstance(head, Mapping) and not owner.get('neck') else None
    main = main if isinstance(main, int) else None
    indices, strides = choose_stages(features, owner['backbone'], main)
    backbone: dict[str, Any] = dict(type=Hiera.__name__, **options)
    channels = probe.image_channels(owner['backbone'])
    if channels != probe.RGB:
        backbone['in_channels'] = channels
    if indices != tuple(range(NUM_STAGES)):
        backbone['out_indices'] = indices
    if not _are_own(indices, strides):
        backbone['out_strides'] = strides
    return _ordered(backbone)


def _ordered(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone's config in the order of Hiera's signature, as one reads it."""
    names = ('type', *signature(Hiera).parameters)
    return {name: backbone[name] for name in names if name in backbone}


def _are_own(indices: Sequence[int], strides: Sequence[int] | None) -> bool:
    """Tell whether outputs are stages of their own strides, each at most once and in order."""
    own = strides is None or tuple(strides) == tuple(STRIDES[index] for index in indices)
    return own and all(a < b for a, b in pairwise(indices))


def _built(backbone: Mapping[str, Any]) -> Hiera:
    options = {key: value for key, value in backbone.items() if key not in ('type', 'init_cfg')}
    with torch.device('meta'):
        return Hiera(**options)


def _channels(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(_built(backbone).out_channels)


def _strides(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(_built(backbone).strides)
