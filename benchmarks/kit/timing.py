"""Timing several things side by side, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import torch

SIDES = {'cpu': (1024, 1536, 2048), 'cuda': (4096, 6144, 8192)}
"""Sides of the square matrices of `products`: large enough to be fast, and no larger."""


@dataclass(frozen=True)
class Times:
    """How long something took: one time for each round, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Third quartile less first, divided by the median; 0 for a single time."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return (third - first) / self.median


def measure_rounds(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmups: int = 1,
    device: str | torch.device = 'cpu',
    report: Callable[[int, str, float], None] = lambda *_: None,
) -> dict[str, Times]:
    """Time all works once in each round, in an order drawn anew for each round.

    Args:
        works: What to do, by name.
        rounds: How often each is timed.
        warmups: How often each is done before, without being timed.
        device: Where the works run; on CUDA, a work's time ends when the device is done.
        report: Called after each timed work with its round, counted from 1, its name and its
            seconds.

    Returns:
        The times, in the order of `works`.
    """
    for work in works.values():
        for _ in range(warmups):
            work()
    shuffle = random.Random(0).shuffle
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1, rounds + 1):
        order = list(works)
        shuffle(order)
        for name in order:
            wait_for(device)
            start = time.perf_counter()
            works[name]()
            wait_for(device)
            found[name].append(time.perf_counter() - start)
            report(number, name, found[name][-1])
    return {name: Times(tuple(values)) for name, values in found.items()}


def wait_for(device: str | torch.device) -> None:
    """Wait until a GPU has done all that it was given; a CPU has."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Let torch and OpenCV work on a number of threads meanwhile; None to leave them alone."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    if count is not None:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def products(device: str, dtype: torch.dtype) -> dict[str, Callable[[], torch.Tensor]]:
    """Return matrix products of several sizes: no network can be faster than the fastest."""
    works = {}
    for side in SIDES[torch.device(device).type]:
        # Ordinary numbers: of some, such as zeros, a processor makes less work.
        left, right = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty_like(left)
        works[_name(side)] = lambda args=(left, right), out=out: torch.mm(*args, out=out)
    return works


def ceiling(times: Mapping[str, Times], device: str) -> float:
    """Return the floating point operations a second of the fastest of the `products` in `times`.

    By medians, as networks are judged. A product takes a few milliseconds, and the best of many is
    a moment of the machine in which no network could be run.
    """
    sides = SIDES[torch.device(device).type]
    return max(2 * side**3 / times[_name(side)].median for side in sides)


def _name(side: int) -> str:
    return f'product of {side}x{side}'
