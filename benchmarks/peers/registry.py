"""What is known of each peer: how it is built, asked for features, and saved."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.peers import builders
from benchmarks.peers.builders import Size
from hiera_mm.errors import listing
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.families import FAMILIES

RELEASED = ('tiny', 'small', 'base', 'base_plus', 'large', 'huge')
SAM2 = ('sam2_tiny', 'sam2_small', 'sam2_base_plus', 'sam2_large')
BIG = ('large', 'huge', 'sam2_large')
"""Architectures that take minutes and gigabytes in float64."""

SAM2_SIZES = ((448, 640), (1024, 1024), (800, 1344))


@dataclass(frozen=True)
class Peer:
    """One class of models of another project.

    Attributes:
        name: The class, as its project calls it.
        package: What must be installed.
        archs: Which of our architectures it has.
        build: Makes the model of an architecture for images of a size, with the project's own
            random start.
        features: Computes the four stages' maps ``(B, C, H, W)`` that the class's weights stand
            for, of a batch of images.
        family: The family that its files belong to (:mod:`hiera_mm.weights.families`).
        sizes: Image sizes, height and width, to compare at; a model takes no others than that
            for which it was built unless there are several.
        container: The key under which the project's files keep the weights; None for the top.
        own_save: Whether files are written by the model's ``save_pretrained``.
        out_norm_eps: Epsilon of norms that follow its features; None if they are bare.
        outputs: Computes the maps that the class itself returns; None if those are `features`.
    """

    name: str
    package: str
    archs: tuple[str, ...]
    build: Callable[[str, Size], nn.Module]
    features: Callable[[nn.Module, Tensor], list[Tensor]]
    family: str
    sizes: tuple[Size, ...] = ((224, 224),)
    container: str | None = None
    own_save: bool = False
    out_norm_eps: float | None = None
    outputs: Callable[[nn.Module, Tensor], list[Tensor]] | None = None

    @property
    def installed(self) -> bool:
        """Whether the peer's package is at hand."""
        return importlib.util.find_spec(self.package) is not None

    def make(self, arch: str) -> nn.Module:
        """Build a model in float64 and evaluation mode, no two of its parameters alike.

        It is for images of the first of `sizes`, or of several.
        """
        model = self.build(arch, self.sizes[0]).double().eval()
        randomise(model)
        return model

    def fill(self, model: nn.Module, network: HieraTrunk) -> None:
        """Give a model the weights of a network of ours of the same architecture.

        Args:
            model: One that `build` made. Parts that a backbone has no use for stay as they are.
            network: Ours, with a position embedding for the size for which the model was built.

        Raises:
            RuntimeError: If the model has no place for a weight, or one of another shape.
        """
        family = FAMILIES[self.family]
        anchor = next(name for name in model.state_dict() if name.endswith(family.anchor))
        prefix = anchor.removesuffix(family.anchor)
        tensors = {
            prefix + family.theirs(name, network.variant.depths): tensor
            for name, tensor in network.named_parameters()
        }
        unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f'{self.name} has no place for {listing(unexpected)}')

    def save(self, model: nn.Module, folder: Path) -> Path:
        """Write a model's weights as the project does, and return the file."""
        if self.own_save:
            model.save_pretrained(folder)
            return folder / 'model.safetensors'
        if self.container is None:
            path = folder / 'model.safetensors'
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        else:
            path = folder / 'model.pth'
            torch.save({self.container: model.state_dict()}, path)
        return path


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Change every parameter, so that one that is left out or put elsewhere shows.

    Position embeddings and LayerScale start at zero or nearly so; they get ordinary values.
    """
    for name, parameter in model.named_parameters():
        if 'pos_embed' in name or 'position_embeddings' in name:
            parameter.normal_(std=0.5)
        elif name.endswith('.gamma'):
            parameter.uniform_(0.3, 0.7)
        else:
            parameter.add_(0.02 * torch.randn_like(parameter))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            'hiera.Hiera', 'hiera', RELEASED,
            builders.release, builders.release_features, 'release',
            container='model_state',
        ),
        Peer(
            'hiera.MaskedAutoencoderHiera', 'hiera', RELEASED,
            builders.release_mae, builders.release_mae_features, 'release',
            container='model_state',
        ),
        Peer('timm.hiera', 'timm', RELEASED, builders.timm, builders.timm_features, 'timm'),
        Peer(
            'timm.hiera_abswin', 'timm', ('small_abswin', 'base_abswin'),
            builders.timm, builders.timm_features, 'timm',
            sizes=((256, 256),),
        ),
        Peer(
            'timm.sam2_hiera', 'timm', (*SAM2, 'hieradet_small'),
            builders.timm_sam2, builders.timm_features, 'timm_sam2',
            sizes=SAM2_SIZES,
        ),
        *(
            Peer(
                f'transformers.{kind}', 'transformers', RELEASED,
                builders.transformers(kind), features, 'transformers',
                own_save=True, **more,
            )
            for kind, features, more in (
                ('HieraModel', builders.transformers_features, {}),
                (
                    'HieraBackbone', builders.transformers_backbone_features,
                    dict(out_norm_eps=1e-5, outputs=builders.transformers_backbone_outputs),
                ),
                ('HieraForImageClassification', builders.transformers_features, {}),
                ('HieraForPreTraining', builders.transformers_mae_features, {}),
            )
        ),
        Peer(
            'sam2.SAM2Base', 'sam2', SAM2, builders.sam2, builders.sam2_features, 'sam2',
            sizes=SAM2_SIZES, container='model',
        ),
        *(
            Peer(
                f'transformers.{kind}', 'transformers', SAM2,
                builders.transformers_sam2(kind), builders.transformers_sam2_features,
                'transformers_sam2',
                sizes=SAM2_SIZES, own_save=True,
            )
            for kind in ('Sam2HieraDetModel', 'Sam2Model')
        ),
    )
}  # fmt: skip
"""The peers by name."""
