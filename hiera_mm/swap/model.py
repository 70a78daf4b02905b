"""Hiera in the place of a model's backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..backbone import Hiera
from ..errors import ConfigError
from . import trial
from .find import owners
from .nested import Path, at, copied, put, type_name
from .ways import (
    Change,
    with_old_channels,
    with_own_channels,
    without_outputs,
    without_pyramid_neck,
)
from .workbench import Workbench

WAYS = (without_pyramid_neck, with_own_channels, with_old_channels)  # the first that works


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
    try_out = partial(workbench.try_out, scope=scope, masks=masks)
    parts = list(owners(model))
    if not parts:
        raise ConfigError('it has no backbone')
    features = []
    for _, owner in parts:
        if type_name(owner['backbone'].get('type')) == Hiera.__name__:
            raise ConfigError('it has Hiera already')
        features.append(workbench.emitted(owner['backbone'], scope))
    reason: Exception | None = None
    for way in WAYS:
        swapped = SwappedModel(copied(model))
        try:
            taken = [
                _apply(swapped, path, way(owner, found, scope, options))
                for (path, owner), found in zip(parts, features, strict=True)
            ]
            if not any(taken):
                continue
            swapped = _try_out(swapped, [path for path, _ in parts], try_out)
            if swapped.prediction_error is not None:
                before = try_out(model, gradients=False).prediction_error
                if swapped.prediction_error != before:
                    raise RuntimeError(f'in prediction: {swapped.prediction_error}')
            return swapped
        except Exception as error:  # whatever a toolbox's model may raise
            logging.getLogger(__name__).debug('%s failed', way.__name__, exc_info=True)
            reason = reason or error
    raise ConfigError(f'with Hiera inside it fails: {type(reason).__name__}: {reason}')


def _try_out(
    swapped: SwappedModel,
    paths: Sequence[Path],
    try_out: Callable[[Mapping[str, Any]], trial.Trial],
) -> SwappedModel:
    """Try a swapped model, and if outputs turn out to be read by nobody, the model without them."""
    shown = try_out(swapped.model)
    swapped.prediction_error, unread = shown.prediction_error, shown.unread
    if not unread:
        return swapped
    less = replace(swapped, model=copied(swapped.model), remarks=dict(swapped.remarks))
    try:
        for path in paths:
            owner = at(less.model, path)
            _apply(less, path, without_outputs(owner, unread))
        shown = try_out(less.model)
        if not shown.unread and shown.prediction_error == swapped.prediction_error:
            return less
    except Exception:  # whatever a toolbox's model may raise; the one before it works
        logging.getLogger(__name__).debug('cannot leave out outputs', exc_info=True)
    swapped.unread = True
    return swapped


def _apply(swapped: SwappedModel, path: Path, change: Change | None) -> bool:
    """Make a change to the part of a model at a path; tell whether there was any."""
    if change is None:
        return False
    put(at(swapped.model, path), change.values)
    swapped.remarks |= {(*path, *inner): remark for inner, remark in change.remarks.items()}
    return True
