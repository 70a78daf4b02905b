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
    channels = [probe.image_channels(owner['backbone']) for _, owner in owners(model)]
    kind = Kind(max(channels, default=probe.RGB), masks)
    with torch.random.fork_rng(devices=[]):
        network = trial.build(model, scope)
        try:
            return run(network, scope, kind)
        except Exception as error:
            # Heads that shrink maps many times over need larger images.
            for side in LARGE_SIDES:
                with suppress(Exception):
                    return run(network, scope, replace(kind, side=side))
            raise error from None
