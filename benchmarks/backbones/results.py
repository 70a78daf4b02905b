"""What was measured of backbones, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.backbones.contestants import RELEASE
from benchmarks.kit.rounds import Times
from hiera_mm.cost.sizes import Size


@dataclass(frozen=True)
class Result:
    """What was measured of a contestant.

    Attributes:
        contestant: Its name.
        role: ``'ours'``, ``'peer'`` or ``'other'``.
        refusal: Why it was not timed; empty if it was.
        difference: Largest difference of its float64 features from ours, if compared.
        seconds: The time of each pass.
        flop: Floating point operations of a pass.
        error: Relative error of the timed features against float64.
        memory: Bytes of a pass beside weights and images; None if not measured.
        compile_seconds: What the first pass took, if it was compiled.
    """

    contestant: str
    role: str
    refusal: str = ''
    difference: float | None = None
    seconds: tuple[float, ...] = ()
    flop: int | None = None
    error: float | None = None
    memory: int | None = None
    compile_seconds: float | None = None

    @property
    def times(self) -> Times | None:
        """How long passes took; None if it was not timed."""
        return Times(self.seconds) if self.seconds else None

    @property
    def median(self) -> float | None:
        """The median time; None if it was not timed."""
        return Times(self.seconds).median if self.seconds else None

    @property
    def speed(self) -> float | None:
        """Floating point operations a second; None if it was not timed."""
        return self.flop / self.median if self.seconds and self.flop else None


@dataclass(frozen=True)
class Cell:
    """All contestants at one architecture and size.

    Attributes:
        arch: The architecture.
        size: Height and width of the images.
        date: When it was measured.
        ceiling: Floating point operations a second of the fastest matrix product.
        results: Ours first.
    """

    arch: str
    size: Size
    date: str
    ceiling: float
    results: tuple[Result, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cell:
        """Make a cell of what a ledger kept of it."""
        results = (Result(**{**r, 'seconds': tuple(r['seconds'])}) for r in record['results'])
        return cls(**{**record, 'size': tuple(record['size']), 'results': tuple(results)})

    @property
    def ours(self) -> Result:
        """What was measured of ours."""
        return next(result for result in self.results if result.role == 'ours')

    def time_ratio(self, result: Result) -> float | None:
        """Return the time of ours divided by that of another one, if both were timed."""
        return _ratio(self.ours.median, result.median)

    def memory_ratio(self, result: Result) -> float | None:
        """Return the memory of ours divided by that of another one, if both were measured."""
        return _ratio(self.ours.memory, result.memory)

    def summary(self) -> str:
        """Say in one line how ours stands against the best peers."""
        fastest = self._least(lambda result: result.median)
        leanest = self._least(lambda result: result.memory)
        if fastest is None or self.ours.median is None:
            return 'no peer to compare with'
        text = f'time: {self.time_ratio(fastest):.2f} of the fastest peer ({fastest.contestant})'
        release = next((r for r in self.results if r.contestant == RELEASE and r.seconds), None)
        if release not in (None, fastest):
            text += f', {self.time_ratio(release):.2f} of the release'
        if leanest is not None and self.ours.memory is not None:
            text += f'; memory: {self.memory_ratio(leanest):.2f} of the leanest peer'
            text += f' ({leanest.contestant})'
        return text

    def _least(self, value: Callable[[Result], float | None]) -> Result | None:
        peers = [r for r in self.results if r.role == 'peer' and value(r) is not None]
        return min(peers, key=value, default=None)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
