"""Hiera in the place of a model's backbone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any

import torch

from ..backbone import Hiera
from ..errors import ConfigError
from ..network.trunk import STRIDES
from ..network.variants import NUM_STAGES
from . import probe, trial
from .channels import Path, channel_changes, output_changes
from .find import owners
from .probe import Feature
from .samples import Kind
from .stages import choose_stages

LARGE_SIDE = 320  # pixels

KEEPS_CHANNELS = (
    'What reads the features was made for these very channels and strides, so the backbone gives '
    'them: 1x1 convolutions and resizing at its end.'
)
KEEPS_STRIDES = 'What reads the features was made for these strides.'
NECK_DROPPED = 'Hiera has a pyramid of its own: the neck that made one of a single map is left out.'
NECK_REPLACED = 'Hiera has a pyramid of its own, which an FPN reads.'


class Workbench:
    """Builds and runs what a swap needs to know about, each thing once.

    A survey tries many models that agree but for the depth of the backbone that is taken out.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Any] = {}

    def emitted(self, backbone: Mapping[str, Any], scope: str) -> tuple[Feature, ...]:
        """Return :func:`.probe.emitted`."""
        return self._once(('emitted', scope, repr(backbone)), probe.emitted, backbone, scope)

    def try_swapped(self, model: Mapping[str, Any], scope: str, *, masks: bool) -> trial.Trial:
        """Build a model with Hiera inside and return :func:`.trial.run`."""
        return self._once(
            ('swapped', scope, str(masks), repr(model)), _try, trial.run, model, scope, masks
        )

    def try_original(self, model: Mapping[str, Any], scope: str, *, masks: bool) -> trial.Trial:
        """Build a model as it was and return :func:`.trial.run_original`."""
        return self._once(
            ('original', scope, str(masks), repr(model)),
            _try, trial.run_original, model, scope, masks,
        )  # fmt: skip

    def _once(self, key: tuple[str, ...], function: Callable[..., Any], *args: Any) -> Any:
        if key not in self._known:
            try:
                self._known[key] = (function(*args), None)
            except Exception as error:
                # Without the frames that it and those before it came through: they hold the model.
                error.__traceback__ = error.__context__ = error.__cause__ = None
                self._known[key] = (None, error)
        result, error = self._known[key]
        if error is not None:
            raise error
        return result


def _try(
    run: Callable[..., trial.Trial], model: Mapping[str, Any], scope: str, masks: bool
) -> trial.Trial:
    network = trial.build(model, scope)
    channels = [probe.image_channels(owner['backbone']) for _, owner in owners(model)]
    kind = Kind(max(channels, default=probe.RGB), masks)
    try:
        return run(network, scope, kind)
    except Exception as error:
        # Heads that shrink maps many times over need larger images.
        try:
            return run(network, scope, replace(kind, side=LARGE_SIDE))
        except Exception:
            raise error from None


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
    remarks: dict[Path, str] = field(default_factory=dict)
    unread: bool = False
    prediction_error: str | None = None


def swap_model(
    model: Mapping[str, Any],
    scope: str,
    options: Mapping[str, Any],
    *,
    masks: bool = True,
    workbench: Workbench | None = None,
) -> SwappedModel:
    """Put Hiera into a model, and make sure that it computes losses, gradients and predictions.

    Args:
        model: The config of the model.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        options: Options of :class:`~hiera_mm.backbone.Hiera` other than those of its outputs.
        masks: Whether the data that it is trained on has masks.
        workbench: Where models are tried.

    Raises:
        ConfigError: If there is no backbone to swap, or no way that works; the message says why.
    """
    workbench = workbench or Workbench()
    try_swapped = partial(workbench.try_swapped, scope=scope, masks=masks)
    parts = list(owners(model))
    if not parts:
        raise ConfigError('it has no backbone')
    features = []
    for _, owner in parts:
        if _short(owner['backbone'].get('type')) == Hiera.__name__:
            raise ConfigError('it has Hiera already')
        features.append(workbench.emitted(owner['backbone'], scope))
    reason: Exception | None = None
    for way in (_without_pyramid_neck, _with_own_channels, _with_old_channels):
        swapped = SwappedModel(copy.deepcopy(dict(model)))
        try:
            taken = [
                _apply(swapped, path, way(owner, found, scope, options))
                for (path, owner), found in zip(parts, features, strict=True)
            ]
            if not any(taken):
                continue
            swapped = _try_out(swapped, [path for path, _ in parts], try_swapped)
            if swapped.prediction_error is not None:
                before = workbench.try_original(model, scope, masks=masks).prediction_error
                if swapped.prediction_error != before:
                    raise RuntimeError(f'in prediction: {swapped.prediction_error}')
            return swapped
        except Exception as error:  # whatever a toolbox's model may raise
            logging.getLogger(__name__).debug('%s failed', way.__name__, exc_info=True)
            reason = reason or error
    raise ConfigError(f'with Hiera inside it fails: {type(reason).__name__}: {reason}')


@dataclass(frozen=True)
class _Change:
    values: dict[Path, Any]
    remarks: dict[Path, str] = field(default_factory=dict)


def _with_own_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> _Change:
    """Give Hiera's own channels, and tell those that read them."""
    backbone = _backbone(owner, features, options)
    changes = channel_changes(owner, [f.channels for f in features], _channels(backbone))
    if owner.get('neck'):
        changes |= _changes_behind_neck(owner, features, backbone, changes, scope)
    remarks = {('backbone', 'out_strides'): KEEPS_STRIDES} if 'out_strides' in backbone else {}
    return _Change({('backbone',): backbone, **changes}, remarks)


def _changes_behind_neck(
    owner: Mapping[str, Any],
    features: Sequence[Feature],
    backbone: Mapping[str, Any],
    changes: Mapping[Path, Any],
    scope: str,
) -> dict[Path, Any]:
    """Find what has to change in the heads when a neck hands on channels of the backbone."""
    new = copy.deepcopy(dict(owner))
    for path, value in changes.items():
        *way, last = path
        _at(new, way)[last] = value
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


def _with_old_channels(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> _Change:
    """Give exactly what the old backbone gave, for readers whose channels are hard-wired."""
    backbone = _backbone(owner, features, options)
    strides = tuple(feature.stride for feature in features)
    if 'out_strides' in backbone or strides != _strides(backbone):
        backbone['out_strides'] = strides
    backbone['out_channels'] = tuple(feature.channels for feature in features)
    return _Change({('backbone',): _ordered(backbone)}, {('backbone',): KEEPS_CHANNELS})


def _without_pyramid_neck(
    owner: Mapping[str, Any], features: Sequence[Feature], scope: str, options: Mapping[str, Any]
) -> _Change | None:
    """Leave out a neck that makes the pyramid that a plain ViT has not; None if there is none."""
    neck = owner.get('neck')
    if not isinstance(neck, Mapping) or len({feature.stride for feature in features}) > 1:
        return None
    pyramid = probe.emitted_by_neck(neck, scope, features)
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
        return _Change(
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
    return _Change({('backbone',): backbone, ('neck',): fpn}, {('neck',): NECK_REPLACED})


def _try_out(
    swapped: SwappedModel,
    paths: Sequence[Path],
    try_swapped: Callable[[Mapping[str, Any]], trial.Trial],
) -> SwappedModel:
    """Try a swapped model, and if outputs turn out to be read by nobody, the model without them."""
    shown = try_swapped(swapped.model)
    swapped.prediction_error, unread = shown.prediction_error, shown.unread
    if not unread:
        return swapped
    less = copy.deepcopy(swapped)
    try:
        for path in paths:
            owner = _at(less.model, path)
            _apply(less, path, _without_outputs(owner, unread))
        shown = try_swapped(less.model)
        if not shown.unread and shown.prediction_error == swapped.prediction_error:
            return less
    except Exception:  # whatever a toolbox's model may raise; the one before it works
        logging.getLogger(__name__).debug('cannot leave out outputs', exc_info=True)
    swapped.unread = True
    return swapped


def _without_outputs(owner: Mapping[str, Any], unread: Sequence[int]) -> _Change:
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
    return _Change({('backbone',): _ordered(backbone | lists), **changes})


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


def _apply(swapped: SwappedModel, path: Path, change: _Change | None) -> bool:
    """Make a change to the part of a model at a path; tell whether there was any."""
    if change is None:
        return False
    for inner, value in change.values.items():
        *way, last = (*path, *inner)
        _at(swapped.model, way)[last] = copy.deepcopy(value)
    swapped.remarks |= {(*path, *inner): remark for inner, remark in change.remarks.items()}
    return True


def _at(node: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        node = node[step]
    return node


def _short(kind: object) -> str:
    """Return the name of a type that a config may give as a class or with its module."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]
