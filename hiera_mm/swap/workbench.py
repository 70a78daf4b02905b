"""Where models are built and tried, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from . import probe, trial
from .find import owners
from .probe import Feature
from .samples import Kind

LARGE_SIDES = (320, 512)  # pixels


class Workbench:
    """Builds and runs what a swap needs to know about, each thing once.

    A survey tries many models that agree but for the depth of the backbone that is taken out.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Any] = {}

    def emitted(self, backbone: Mapping[str, Any], scope: str) -> tuple[Feature, ...]:
        """Return :func:`.probe.emitted`."""
        return self._once(('emitted', scope, repr(backbone)), probe.emitted, backbone, scope)

    def try_out(
        self, model: Mapping[str, Any], scope: str, *, masks: bool, gradients: bool = True
    ) -> trial.Trial:
        """Build a model and return :func:`.trial.run`; originals do without gradients."""
        key = ('try', scope, str(masks), str(gradients), repr(model))
        return self._once(key, _try, model, scope, masks, gradients)

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


def _try(model: Mapping[str, Any], scope: str, masks: bool, gradients: bool) -> trial.Trial:
    channels = [probe.image_channels(owner['backbone']) for _, owner in owners(model)]
    kind = Kind(max(channels, default=probe.RGB), masks)
    with torch.random.fork_rng(devices=[]):
        network = trial.build(model, scope)
        try:
            return trial.run(network, scope, kind, gradients=gradients)
        except Exception as error:
            # Heads that shrink maps many times over need larger images.
            for side in LARGE_SIDES:
                with suppress(Exception):
                    larger = replace(kind, side=side)
                    return trial.run(network, scope, larger, gradients=gradients)
            raise error from None
