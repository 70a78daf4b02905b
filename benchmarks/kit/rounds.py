"""Timing several things side by side, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """How long something took, each time that it was done.

    Attributes:
        seconds: One time for each round, in the order of the rounds.
    """

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
    seed: int = 0,
    report: Callable[[int, str, float], None] = lambda *_: None,
) -> dict[str, Times]:
    """Time all works once in each round, in an order drawn anew for each round.

    Args:
        works: What to do, by name.
        rounds: How often each is timed, at least once.
        warmups: How often each is done before, without being timed.
        device: Where the works run; on CUDA, a work's time ends when the device is done.
        seed: Of the orders.
        report: Called after each timed work with its round, counted from 1, its name and its
            seconds.

    Returns:
        The times, in the order of `works`.

    Raises:
        ValueError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f'rounds must be at least 1, got {rounds}')
    device = torch.device(device)

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for work in works.values():
        for _ in range(warmups):
            seconds(work)
    shuffle = random.Random(seed).shuffle
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1, rounds + 1):
        order = list(works)
        shuffle(order)
        for name in order:
            found[name].append(seconds(works[name]))
            report(number, name, found[name][-1])
    return {name: Times(tuple(values)) for name, values in found.items()}
