"""Dividing the time of a pass among the parts of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn

from benchmarks.kit.timing import wait_for
from hiera_mm.cost.parts import REST

Divide = Callable[[str], AbstractContextManager[None]]
"""Given the name of a part, the context in which that part works."""

_WORK = ('forward', 'predict')
_BRANCHES = {'predict_bbox': 'bbox', 'predict_mask': 'mask'}  # of a RoI head
_OWN = {'postprocess_result': 'postprocessing'}  # of a segmenter itself: to the image's size


def undivided(_: str) -> AbstractContextManager[None]:
    """Stand in for a clock where only the whole is timed."""
    return nullcontext()


class PartClock:
    """Measures how long each part of a pass takes; the parts add up to the whole.

    What works inside another part takes its time from it. Whatever belongs to no part is `REST`.
    On CUDA, a part ends when the device is done, which makes the whole a little slower.

    Args:
        device: Where the parts work.
    """

    def __init__(self, device: str | torch.device = 'cpu') -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._part = REST
        self._since = 0.0

    def time(self, work: Callable[[Divide], object]) -> dict[str, float]:
        """Do a work and return the seconds of each part, in the order of their first use.

        The work gets the clock's `part`, for what it wants to have timed apart.
        """
        self._seconds, self._part = {}, REST
        self._since = self._now()
        work(self.part)
        self._turn_to(REST)
        rest = self._seconds.pop(REST)
        return {**self._seconds, REST: rest}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens in this context for a part.

        A part may be divided again: inside ``roi_head.mask``, what is of ``roi_head`` remains with
        ``roi_head.mask``.
        """
        outer = self._part
        if outer == name or outer.startswith(f'{name}.'):
            yield
            return
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, name: str) -> None:
        now = self._now()
        self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = name, now

    def _now(self) -> float:
        wait_for(self._device)
        return time.perf_counter()


@contextmanager
def divided(model: nn.Module, clock: PartClock) -> Iterator[None]:
    """While active, a clock counts the work of each child of a model for a part of its name.

    The box and the mask branch of a RoI head become parts as well, each with its pooling, its
    network and what is made of its outputs. The model is as before afterwards.
    """
    # Hooks of torch would miss what a model calls past them: `predict` and `forward` of heads.
    methods = [(owner, name, part) for owner, name, part in _methods(model) if hasattr(owner, name)]
    before = [vars(owner).get(name) for owner, name, _ in methods]
    for owner, name, part in methods:
        setattr(owner, name, _as_part(getattr(owner, name), part, clock))
    try:
        yield
    finally:
        for (owner, name, _), own in zip(methods, before, strict=True):
            delattr(owner, name)
            if own is not None:
                setattr(owner, name, own)


def _methods(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield owner, name and part of each method that does a part's work, if there is such a one."""
    yield from ((model, name, part) for name, part in _OWN.items())
    seen: set[nn.Module] = set()
    for part, child in model.named_children():
        yield from ((child, name, f'{part}.{branch}') for name, branch in _BRANCHES.items())
        # A model also calls modules inside a child, such as a branch of a head.
        for module in child.modules():
            if module not in seen:
                seen.add(module)
                yield from ((module, name, part) for name in _WORK)


def _as_part(method: Callable[..., Any], part: str, clock: PartClock) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with clock.part(part):
            return method(*args, **kwargs)

    return run
