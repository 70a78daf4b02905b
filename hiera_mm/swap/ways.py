"""The ways in which Hiera can take the place of a backbone, and the first of them that works.

Each way is a function of the part of a model that has the backbone, what the backbone gives, the
toolbox's scope, and the Hiera with the outputs that match. It returns what has to change in that
part, or None where it does not apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from ..backbone import Hiera
from ..engine.config import type_name
from ..errors import ConfigError
from ..network.trunk import STRIDES
from ..network.variants import NUM_STAGES
from ..trial.configs import RGB, Keys, copied, image_channels, owners
from ..trial.models import Trial, try_out
from .features import Feature, choose_stages, emitted, emitted_by_neck, numbers_as_hiera
from .readers import channel_changes, output_changes

KEEPS_CHANNELS = (
    'What reads the features was made for these very channels and strides, so the backbone gives '
    'them: 1x1 convolutions and resizing at its end. If the channels are an argument of what reads '
    'them, under a name such as widths, let the name end in in_channels and swap again: then it is '
    "told Hiera's own channels, and no convolution is needed."
)
FROZEN = 'Frozen as stages of the old backbone were; -1 trains all of it.'
KEEPS_STRIDES = 'What reads the features was made for these strides.'
NECK_DROPPED = 'Hiera has a pyramid of its own: the neck that made one of a single map is left out.'
NECK_REPLACED = 'Hiera has a pyramid of its own, which an FPN reads.'

UNTRIED_HELP = (
    'If it only cannot run here (it needs a GPU, or other ground truth than can be made up), '
    '--no-trial writes it untried.'
)

# Settings of the old backbone that Hiera has values of its own for.
_ANSWERED = ('type', 'init_cfg', 'pretrained', 'out_indices', 'in_channels', 'drop_path_rate')

logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """New values by their path in the part of a model that has the backbone, and why."""

    values: dict[Keys, Any]
    remarks: Mapping[Keys, str] = {}


@dataclass
class SwappedModel:
    """A model with Hiera inside.

    Attributes:
        model: Its complete config.
        remarks: Why something is as it is, by path in the config.
        unread: Whether an output of the backbone goes into no loss.
        prediction_error: What it raises in testing, as the model before it does; mostly None.
    """

    model: dict[str, Any]
    remarks: dict[Keys, str] = field(default_factory=dict)
    unread: bool = False
    prediction_error: str | None = None

    def apply(self, path: Keys, change: Change) -> None:
        """Make a change to the part of the model at a path."""
        put(at(self.model, path), change.values)
        self.remarks |= {(*path, *inner): remark for inner, remark in change.remarks.items()}


def call_directly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function."""
    return function(*args, **kwargs)


def swap_model(
    model: Mapping[str, Any],
    scope: str,
    options: Mapping[str, Any],
    *,
    masks: bool = True,
    trial: bool = True,
    call: Callable[..., Any] = call_directly,
) -> SwappedModel:
    """Put Hiera into a model, and make sure that it computes losses, gradients and predictions.

    Args:
        model: The config of the model.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        options: Options of :class:`~hiera_mm.backbone.Hiera` other than those of its outputs.
        masks: Whether the data that it is trained on has masks.
        trial: Whether to try the model; if not, the first way that applies is taken, and outputs
            may be unread.
        call: Calls the functions that build and run something. Who swaps many models that are much
            alike can remember what they returned.

    Raises:
        ConfigError: If there is no backbone to swap, or no way that works; the message says why.
    """
    parts = list(owners(model))
    if not parts:
        raise ConfigError('it has no backbone')
    features, hieras = [], []
    for _, owner in parts:
        if type_name(owner['backbone']) == Hiera.__name__:
            raise ConfigError('it has Hiera already')
        features.append(call(emitted, owner['backbone'], scope))
        alike = call(numbers_as_hiera, owner['backbone'], scope)
        hieras.append(_hiera(owner, features[-1], options, alike=alike))

    def tried(tested: Mapping[str, Any], *, gradients: bool = True) -> Trial:
        return call(try_out, tested, scope, masks=masks, gradients=gradients)

    reason: Exception | None = None
    for way in (without_pyramid_neck, with_own_channels, with_old_channels):
        swapped = SwappedModel(copied(model))
        try:
            changes = [
                way(owner, found, scope, hiera)
                for (_, owner), found, hiera in zip(parts, features, hieras, strict=True)
            ]
            if not any(changes):
                continue
            for (path, _), change, hiera in zip(parts, changes, hieras, strict=True):
                if change is not None:
                    swapped.apply(path, change)
                if 'frozen_stages' in hiera:
                    swapped.remarks[(*path, 'backbone', 'frozen_stages')] = FROZEN
            if not trial:
                return replace(swapped, unread=True)
            swapped = _without_unread_outputs(swapped, tried)
            failed = swapped.prediction_error
            if failed is not None and failed != tried(model, gradients=False).prediction_error:
                raise RuntimeError(f'in prediction: {failed}')
            return swapped
        except Exception as error:  # whatever a toolbox's model may raise
            logger.debug('%s failed', way.__name__, exc_info=True)
            reason = reason or error
    raise ConfigError(
        f'with Hiera inside it fails on made-up images: {type(reason).__name__}: {reason}\n'
        f'{UNTRIED_HELP}'
    ) from reason


def _without_unread_outputs(swapped: SwappedModel, tried: Callable[..., Trial]) -> SwappedModel:
    """Try a swapped model, and if outputs turn out to be read by nobody, the model without them."""
    shown = tried(swapped.model)
    swapped.prediction_error = shown.prediction_error
    if not shown.unread:
        return swapped
    less = replace(swapped, model=copied(swapped.model), remarks=dict(swapped.remarks))
    try:
        for path, owner in list(owners(less.model)):
            less.apply(path, without_outputs(owner, shown.unread))
        again = tried(less.model)
        if not again.unread and again.prediction_error == shown.prediction_error:
            return less
    except Exception:  # whatever a toolbox's model may raise; the one before it works
        logger.debug('cannot leave out outputs', exc_info=True)
    swapped.unread = True
    return swapped


def with_own_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, hiera: Mapping[str, Any]
) -> Change:
    """Give Hiera's own channels, and tell those that read them."""
    built = _built(hiera)
    changes = channel_changes(owner, [f.channels for f in features], built.out_channels)
    if owner.get('neck'):
        given = list(map(Feature, built.out_channels, built.strides))
        changes |= _changes_behind_neck(owner, features, given, changes, scope)
    remarks = {('backbone', 'out_strides'): KEEPS_STRIDES} if 'out_strides' in hiera else {}
    return Change({('backbone',): hiera, **changes}, remarks)


def _changes_behind_neck(
    owner: Mapping[str, Any],
    features: Sequence[Feature],
    given: Sequence[Feature],
    changes: Mapping[Keys, Any],
    scope: str,
) -> dict[Keys, Any]:
    """Find what has to change in the heads when a neck hands on channels of the backbone."""
    changed = copied(owner)
    put(changed, changes)
    try:
        before = emitted_by_neck(owner['neck'], scope, features)
        after = emitted_by_neck(changed['neck'], scope, given)
    except ConfigError:
        return {}  # it may want more than features; then the trial tells
    old, new = ([feature.channels for feature in found] for found in (before, after))
    if old == new or len(old) != len(new):
        return {}
    return channel_changes({key: owner[key] for key in owner if key != 'neck'}, old, new)


def with_old_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, hiera: Mapping[str, Any]
) -> Change:
    """Give exactly what the old backbone gave, for readers whose channels are hard-wired."""
    backbone = dict(hiera)
    strides = tuple(feature.stride for feature in features)
    if 'out_strides' in backbone or strides != tuple(_built(backbone).strides):
        backbone['out_strides'] = strides
    backbone['out_channels'] = tuple(feature.channels for feature in features)
    return Change({('backbone',): _ordered(backbone)}, {('backbone',): KEEPS_CHANNELS})


def without_pyramid_neck(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, hiera: Mapping[str, Any]
) -> Change | None:
    """Leave out a neck that makes the pyramid that a plain ViT has not."""
    neck = owner.get('neck')
    if not isinstance(neck, Mapping) or len({feature.stride for feature in features}) > 1:
        return None
    try:
        pyramid = emitted_by_neck(neck, scope, features)
    except ConfigError:
        return None
    if [feature.stride for feature in pyramid[: len(STRIDES)]] != list(STRIDES):
        return None
    backbone = {k: v for k, v in hiera.items() if k not in ('out_indices', 'out_strides')}
    channels = list(_built(backbone).out_channels)
    if len(pyramid) == NUM_STAGES and scope == 'mmseg':
        # Heads of mmseg read maps of any channels.
        heads = {key: value for key, value in owner.items() if key != 'neck'}
        changes = channel_changes(heads, [feature.channels for feature in pyramid], channels)
        return Change(
            {('backbone',): backbone, ('neck',): None, **changes}, {('neck',): NECK_DROPPED}
        )
    if len({feature.channels for feature in pyramid}) > 1:
        return None
    fpn = dict(
        type='FPN' if scope == 'mmdet' else 'mmdet.FPN',
        in_channels=channels,
        out_channels=pyramid[0].channels,
        num_outs=len(pyramid),
    )
    if neck.get('norm_cfg') is not None:
        fpn['norm_cfg'] = neck['norm_cfg']
    return Change({('backbone',): backbone, ('neck',): fpn}, {('neck',): NECK_REPLACED})


def without_outputs(owner: Mapping[str, Any], unread: Sequence[int]) -> Change:
    """Leave out outputs of a Hiera, by place, that nobody reads.

    Raises:
        ConfigError: If none would be left.
    """
    backbone = dict(owner['backbone'])
    channels = _built(backbone).out_channels
    kept = [place for place in range(len(channels)) if place not in unread]
    if not kept:
        raise ConfigError('no loss depends on the backbone')
    backbone.setdefault('out_indices', tuple(range(NUM_STAGES)))
    for key in ('out_indices', 'out_strides', 'out_channels'):
        if key in backbone:
            backbone[key] = tuple(backbone[key][place] for place in kept)
    if _are_own(backbone['out_indices'], backbone.get('out_strides')):
        backbone.pop('out_strides', None)
    changes = output_changes(owner, channels, unread)
    return Change({('backbone',): _ordered(backbone), **changes})


def _hiera(
    owner: Mapping[str, Any],
    features: Sequence[Feature],
    options: Mapping[str, Any],
    *,
    alike: bool,
) -> dict[str, Any]:
    """Return the config of the Hiera whose outputs take the place of a backbone's.

    Args:
        owner: The part of the model that has the backbone.
        features: What the backbone gives.
        options: Options of Hiera.
        alike: Whether the backbone numbers its stages as Hiera does.
    """
    old, head = owner['backbone'], owner.get('decode_head')
    main = head.get('in_index', -1) if isinstance(head, Mapping) and not owner.get('neck') else None
    main = main if isinstance(main, int) else None
    asked = old.get('out_indices') if alike else None
    indices, strides = choose_stages(features, [asked] if isinstance(asked, int) else asked, main)
    hiera = dict(type=Hiera.__name__, **options)
    if indices != tuple(range(NUM_STAGES)):
        hiera['out_indices'] = indices
    if not _are_own(indices, strides):
        hiera['out_strides'] = strides
    if image_channels(owner) != RGB:
        hiera['in_channels'] = image_channels(owner)
    if old.get('with_cp'):
        hiera['with_cp'] = True
    # What starts at random has to be trained.
    frozen = old.get('frozen_stages')
    if alike and isinstance(frozen, int) and frozen >= 0 and 'init_cfg' in options:
        hiera['frozen_stages'] = frozen
    return _ordered(hiera)


def lost_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the settings of a backbone that are in effect and have no place in its Hiera."""
    return [
        key
        for key, value in old.items()
        if key not in new and key not in _ANSWERED and value not in (None, False, -1)
    ]


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


def at(node: Any, path: Keys) -> Any:
    """Return what stands at a path in a config."""
    for step in path:
        node = node[step]
    return node


def put(node: Any, changes: Mapping[Keys, Any]) -> None:
    """Put new values at paths of a config, in place."""
    for (*way, last), value in changes.items():
        at(node, tuple(way))[last] = copied(value)
