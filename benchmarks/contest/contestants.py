"""Whom backbones are timed against, and who may be: those that give the same answer as ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from benchmarks.peers import PEERS, Peer, randomise
from benchmarks.peers.compare import LIMIT, agree, differences
from hiera_mm.backbone import Hiera
from hiera_mm.cost.counting import WithoutProducts, counting
from hiera_mm.network import VARIANTS
from hiera_mm.network.layout import MASK_UNIT
from hiera_mm.network.position import Absolute, kind_of
from hiera_mm.network.trunk import UNIT_PIXELS
from hiera_mm.trial.configs import Size
from hiera_mm.trial.models import import_models, in_scope

SEED = 0
OURS = 'hiera_mm.Hiera'
RELEASE = 'hiera.Hiera'
COMPARED = (
    RELEASE,
    'timm.hiera',
    'timm.hiera_abswin',
    'timm.sam2_hiera',
    'transformers.HieraModel',
    'transformers.HieraBackbone',
    'transformers.Sam2HieraDetModel',
    'sam2.SAM2Base',
)
"""One class of each implementation: the others have the same network with more around it."""

OTHERS: dict[str, dict[str, Any]] = {
    'mmdet.SwinTransformer': dict(
        type='SwinTransformer',
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        drop_path_rate=0.0,
    ),
    'mmdet.ResNet': dict(type='ResNet', depth=50),
}
"""Other networks, for orientation; they are the same for all architectures."""


class Refused(Exception):
    """A contestant cannot be timed; the message says why.

    Attributes:
        difference: How far its features are from ours, if that is why.
    """

    def __init__(self, reason: str, difference: float | None = None) -> None:
        super().__init__(reason)
        self.difference = difference


class Extractor(nn.Module):
    """A contestant's model, from images to the stages' maps as the class itself returns them."""

    def __init__(self, peer: Peer, arch: str, size: Size) -> None:
        super().__init__()
        self.model = peer.build(arch, size)
        self._features = peer.outputs or peer.features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages."""
        return tuple(self._features(self.model, images))


class Entrant(NamedTuple):
    """A contestant that may be timed.

    Attributes:
        network: Its network, in float32 and evaluation mode, on the CPU.
        expected: Its features of the first image, computed in float64.
        flop: Floating point operations of one image, two to a multiply-add.
        difference: Largest difference of its float64 features from ours; None for ours itself and
            for other networks.
    """

    network: Extractor
    expected: tuple[Tensor, ...]
    flop: int
    difference: float | None = None


class Admission:
    """Builds contestants with the weights of ours, and compares their answers with ours.

    All are given the same image. The weights are random, with no two parameters alike, and are
    handed over in memory, each under the other project's name for it: that files of every project
    are read rightly is proven elsewhere (``benchmarks/compare_peers.py``).
    """

    def __init__(self, arch: str, size: Size) -> None:
        self._arch, self._size = arch, size
        torch.manual_seed(SEED)
        self.image = torch.randn(1, 3, *size)
        network = Extractor(CONTESTANTS[OURS], arch, size).eval()
        randomise(network)
        self.ours = self._entrant(network)

    def admit(self, peer: Peer) -> Entrant:
        """Build a contestant and compare its features with ours in float64; it may be Refused."""
        if role_of(peer) == 'peer' and any(side % UNIT_PIXELS for side in self._size):
            raise Refused(f'takes only sides that are multiples of {UNIT_PIXELS}')
        try:
            return self._build(peer)
        except Refused:
            raise
        except Exception as error:  # other projects' code, which may raise anything
            raise Refused(f'cannot be built or run: {first_line(error)}') from error

    def _build(self, peer: Peer) -> Entrant:
        network = Extractor(peer, self._arch, self._size).eval()
        if role_of(peer) == 'other':
            return self._entrant(network)
        ours, expected = self.ours.network.model, self.ours.expected
        if peer.out_norm_eps is not None:
            ours = build_ours(self._arch, self._size, dict(type='LN', eps=peer.out_norm_eps)).eval()
            randomise(ours)
            ours.load_state_dict(self.ours.network.model.state_dict(), strict=False)
            expected = _in_float64(ours, self.image)
        peer.fill(network.model, ours)
        features = _in_float64(network, self.image)
        shapes = [tuple(x.shape) for x in features]
        if shapes != [tuple(x.shape) for x in expected]:
            raise Refused(f'its features have other shapes than ours: {shapes}')
        found = differences(features, expected)
        if not agree(found):
            raise Refused(
                f'its features differ from ours by {_worst(found):.1e} in float64 '
                f'(limit {LIMIT:g})',
                _worst(found),
            )
        return Entrant(network, expected, flop_of(network, self.image), _worst(found))

    def _entrant(self, network: Extractor) -> Entrant:
        return Entrant(network, _in_float64(network, self.image), flop_of(network, self.image))


def role_of(peer: Peer) -> str:
    """Return what a contestant is to ours: ``'ours'`` itself, a ``'peer'``, or an ``'other'``."""
    if peer.name == OURS:
        return 'ours'
    return 'peer' if peer.family else 'other'


def chosen(arch: str, names: Iterable[str]) -> dict[str, Peer]:
    """Return ours, and those of some contestants that have an architecture."""
    names = {OURS, *names}
    return {n: c for n, c in CONTESTANTS.items() if n in names and (arch in c.archs or not c.archs)}


def build_ours(arch: str, size: Size, out_norm: Mapping[str, object] | None = None) -> Hiera:
    """Build ours for images of a size, with bare features or a norm after each, as a peer has."""
    position = VARIANTS[arch].pos_embed
    pos_embed = None
    if isinstance(position, Absolute):
        # Peers learn such a map for one size; with another one ours would hold other weights.
        grid = tuple(-(-side // UNIT_PIXELS) * MASK_UNIT for side in size)
        pos_embed = dict(type=kind_of(position), grid=grid)
    return Hiera(arch, out_norm=out_norm, pos_embed=pos_embed)


def flop_of(network: nn.Module, image: Tensor) -> int:
    """Return the floating point operations of a forward pass, two to a multiply-add."""
    with torch.no_grad(), WithoutProducts(), counting(network) as counts:
        network(image)
    return 2 * counts.total.total()


def relative_error(features: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the error of a batch's first image against float64, of its worst stage, by norms."""
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


def _build_other(arch: str, size: Size, cfg: Mapping[str, Any]) -> nn.Module:
    import_models('mmdet')
    with in_scope('mmdet'):
        return MODELS.build(dict(cfg))


def _call(model: nn.Module, images: Tensor) -> Sequence[Tensor]:
    return model(images)


CONTESTANTS: dict[str, Peer] = {
    OURS: Peer(OURS, 'hiera_mm', tuple(VARIANTS), build_ours, _call, family='ours'),
    **{name: PEERS[name] for name in COMPARED},
    **{
        name: Peer(name, 'mmdet', (), partial(_build_other, cfg=cfg), _call, family='')
        for name, cfg in OTHERS.items()
    },
}
"""The contestants by name; others are of no family, and have no architecture of ours."""
