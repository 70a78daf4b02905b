"""Whom backbones are timed against: ours, other projects' Hieras, and two old acquaintances."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from benchmarks.peers import PEERS, Peer
from hiera_mm.backbone import Hiera
from hiera_mm.cost.sizes import Size
from hiera_mm.network import VARIANTS
from hiera_mm.network.layout import MASK_UNIT
from hiera_mm.network.position import Absolute, kind_of
from hiera_mm.network.trunk import WINDOW_PIXELS
from hiera_mm.swap.trial import import_models, in_scope

OURS = 'hiera_mm.Hiera'
RELEASE = 'hiera.Hiera'
_COMPARED = (
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

_OTHERS: dict[str, dict[str, Any]] = {
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


@dataclass(frozen=True)
class Contestant:
    """A kind of backbone that can be timed.

    Attributes:
        name: The class, as its project calls it.
        package: What must be installed.
        build: Makes the model of an architecture for images of a size. The models of other
            networks are the same for all architectures.
        features: Computes the maps ``(B, C, H, W)`` of the stages.
        peer: What is known of it if it is another project's Hiera.
    """

    name: str
    package: str
    build: Callable[[str, Size], nn.Module]
    features: Callable[[nn.Module, Tensor], Sequence[Tensor]]
    peer: Peer | None = None

    @property
    def role(self) -> str:
        """What it is to ours: ``'ours'`` itself, a ``'peer'``, or an ``'other'`` network."""
        if self.name == OURS:
            return 'ours'
        return 'other' if self.peer is None else 'peer'

    @property
    def installed(self) -> bool:
        """Whether its package is at hand."""
        return importlib.util.find_spec(self.package) is not None

    def takes_part(self, arch: str) -> bool:
        """Tell whether it has an architecture, or is of none."""
        return self.peer is None or arch in self.peer.archs


class Extractor(nn.Module):
    """A contestant's model, from images to the maps of the stages.

    Args:
        contestant: The contestant.
        arch: The architecture.
        size: Height and width of the images.
    """

    def __init__(self, contestant: Contestant, arch: str, size: Size) -> None:
        super().__init__()
        self.model = contestant.build(arch, size)
        self._features = contestant.features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages."""
        return tuple(self._features(self.model, images))


def chosen(arch: str, names: Sequence[str]) -> list[Contestant]:
    """Return ours, and those of some contestants that have an architecture."""
    names = [OURS, *names]
    return [c for c in CONTESTANTS.values() if c.name in names and c.takes_part(arch)]


def installed() -> tuple[str, ...]:
    """Return the names of all contestants but ours whose packages are at hand."""
    return tuple(c.name for c in CONTESTANTS.values() if c.name != OURS and c.installed)


def build_ours(arch: str, size: Size, out_norm: Mapping[str, object] | None = None) -> Hiera:
    """Build ours with the peers' bare features, and with a position map for the size.

    Args:
        arch: The architecture.
        size: Height and width of the images.
        out_norm: A norm after each output, for peers that have such.
    """
    position = VARIANTS[arch].pos_embed
    pos_embed = None
    if isinstance(position, Absolute):
        # Peers learn such a map for one size; with another one ours would hold other weights.
        grid = tuple(-(-side // WINDOW_PIXELS) * MASK_UNIT for side in size)
        pos_embed = dict(type=kind_of(position), grid=grid)
    return Hiera(arch, out_norm=out_norm, pos_embed=pos_embed)


def _build_other(name: str) -> Callable[[str, Size], nn.Module]:
    def build(arch: str, size: Size) -> nn.Module:
        import_models('mmdet')
        with in_scope('mmdet'):
            return MODELS.build(_OTHERS[name].copy())

    return build


def _call(model: nn.Module, images: Tensor) -> Sequence[Tensor]:
    return model(images)


CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Contestant(OURS, 'hiera_mm', build_ours, _call),
        *(
            # What is timed is what the class itself computes.
            Contestant(name, peer.package, peer.build, peer.outputs or peer.features, peer)
            for name, peer in ((name, PEERS[name]) for name in _COMPARED)
        ),
        *(Contestant(name, 'mmdet', _build_other(name), _call) for name in _OTHERS),
    )
}
"""The contestants by name."""
