"""Who may be timed: those that give the same answer, from the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.backbones.contestants import CONTESTANTS, OURS, Contestant, Extractor, build_ours
from benchmarks.peers import randomise
from benchmarks.peers.compare import LIMIT, agree, differences
from hiera_mm.backbone import Hiera
from hiera_mm.cost.counting import counting
from hiera_mm.cost.hollow import WithoutProducts
from hiera_mm.cost.sizes import Size
from hiera_mm.network.trunk import WINDOW_PIXELS

SEED = 0


class Refused(Exception):
    """A contestant cannot be timed; the message says why.

    Attributes:
        difference: How far its features are from ours, if that is why.
    """

    def __init__(self, reason: str, difference: float | None = None) -> None:
        super().__init__(reason)
        self.difference = difference


@dataclass(frozen=True)
class Entrant:
    """A contestant that may be timed.

    Attributes:
        contestant: Which one.
        network: Its network, in float32 and evaluation mode, on the CPU.
        expected: Its features of the first image, computed in float64.
        flop: Floating point operations of one image, two to a multiply-add.
        difference: Largest difference of its float64 features from ours; None for ours itself and
            for other networks.
    """

    contestant: Contestant
    network: Extractor
    expected: tuple[Tensor, ...]
    flop: int
    difference: float | None = None


class Admission:
    """Builds contestants with the weights of ours, and compares their answers with ours.

    All are given the same image. The weights are random, with no two parameters alike, and are
    handed over in memory, each under the other project's name for it: that files of every project
    are read rightly is proven elsewhere (``tools/compare_peers.py``).

    Args:
        arch: The architecture.
        size: Height and width of the image.
    """

    def __init__(self, arch: str, size: Size) -> None:
        self._arch, self._size = arch, size
        torch.manual_seed(SEED)
        self.image = torch.randn(1, 3, *size)
        network = Extractor(CONTESTANTS[OURS], arch, size).eval()
        randomise(network)
        self.ours = self._entrant(CONTESTANTS[OURS], network)

    def admit(self, contestant: Contestant) -> Entrant:
        """Build a contestant and compare its features with ours in float64.

        Args:
            contestant: Any but ours.

        Raises:
            Refused: If it cannot be built or run at this size, or its features differ.
        """
        whole = all(side % WINDOW_PIXELS == 0 for side in self._size)
        if contestant.peer is not None and not whole:
            raise Refused(f'takes only sides that are multiples of {WINDOW_PIXELS}')
        try:
            return self._build(contestant)
        except Refused:
            raise
        except Exception as error:  # other projects' code, which may raise anything
            raise Refused(f'cannot be built or run: {first_line(error)}') from error

    def _build(self, contestant: Contestant) -> Entrant:
        network = Extractor(contestant, self._arch, self._size).eval()
        peer = contestant.peer
        if peer is None:
            return self._entrant(contestant, network)
        ours, expected = self.ours.network.model, self.ours.expected
        if peer.out_norm_eps is not None:
            ours, expected = self._ours_with_norms(peer.out_norm_eps)
        assert isinstance(ours, Hiera)
        peer.fill(network.model, ours)
        features = _in_float64(network, self.image)
        shapes = [tuple(x.shape) for x in features]
        if shapes != [tuple(x.shape) for x in expected]:
            raise Refused(f'its features have other shapes than ours: {shapes}')
        found = differences(features, expected)
        difference = _worst(found)
        if not agree(found):
            raise Refused(
                f'its features differ from ours by {difference:.1e} in float64 (limit {LIMIT:g})',
                difference,
            )
        return Entrant(contestant, network, expected, _flop(network, self.image), difference)

    def _ours_with_norms(self, eps: float) -> tuple[Hiera, tuple[Tensor, ...]]:
        """Return ours, with a norm after each output, and its features."""
        network = build_ours(self._arch, self._size, dict(type='LN', eps=eps)).eval()
        randomise(network)
        network.load_state_dict(self.ours.network.model.state_dict(), strict=False)
        return network, _in_float64(network, self.image)

    def _entrant(self, contestant: Contestant, network: Extractor) -> Entrant:
        expected = _in_float64(network, self.image)
        return Entrant(contestant, network, expected, _flop(network, self.image))


def relative_error(features: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative error of the stages' features of the first image.

    Args:
        features: Of a batch, in any dtype and on any device.
        expected: Of its first image, in float64 on the CPU.

    Returns:
        The norm of the error divided by that of the expected features; NaN if any is.
    """
    return _worst(
        ((x[:1].detach().cpu().double() - y).norm() / y.norm()).item()
        for x, y in zip(features, expected, strict=True)
    )


def first_line(error: Exception) -> str:
    """Return an error as one line."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def _worst(numbers: Iterable[float]) -> float:
    """Return the largest number, or NaN if any of them is."""
    return max(numbers, key=lambda number: (math.isnan(number), number))


def _in_float64(network: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Compute features in float64; the network's weights are the same afterwards, to the bit."""
    network.double()
    with torch.no_grad():
        features = network(image.double())
    network.float()
    return features


def _flop(network: Extractor, image: Tensor) -> int:
    with torch.no_grad(), WithoutProducts(), counting(network) as counts:
        network(image)
    return 2 * counts.total.total()
