"""`Hiera`, the backbone that an OpenMMLab config names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import nn

from . import weights
from .errors import ConfigError, UserError, did_you_mean
from .network import HieraTrunk, Variant
from .network.block import NORM_EPS
from .network.resize import linear_matrix, mean_matrix, resize
from .network.trunk import memory_format_of, require_sequence
from .network.variants import NUM_STAGES, resolve_variant


@MODELS.register_module()
class Hiera(HieraTrunk, BaseModule):
    """Hiera backbone (arXiv 2306.00989) for every toolbox built on mmengine.

    Registered in mmengine's root registry, from which the registries of mmdet, mmseg, mmpretrain,
    mmpose and the others inherit, so ``dict(type='Hiera', ...)`` is found in all of them.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'base_plus'``, ``'large'``, ``'huge'``;
            ``'sam2_tiny'``, ``'sam2_small'``, ``'sam2_base_plus'``, ``'sam2_large'``; another name
            of :data:`~hiera_mm.network.VARIANTS`; a dict with the fields of
            :class:`~hiera_mm.network.Variant`; or ``'auto'`` for that of the weights that
            ``init_cfg`` names.
        out_indices: Stages, of 0 to 3, whose features are returned; ascending. Stages after the
            last one are not built. With ``out_strides`` the same stage may be named again.
        out_strides: Stride to which each output is resized, for heads that were made for other
            strides than 4, 8, 16, 32; ``None`` for the stages' own.
        out_channels: Channels to which each output is projected (a 1x1 convolution), for heads
            whose channels cannot be changed; ``None`` for the stages' own.
        out_norm: The norm that follows each output, ``dict(type='LN')`` with an optional ``eps``;
            ``None`` for the bare features. Detection and segmentation heads want normalised
            features: those of a pre-norm transformer grow with depth.
        pos_embed: Kind of position embedding, ``'absolute'``, ``'window_aligned'``,
            ``'absolute_win'`` or ``'absolute_win_recursive'``, or a dict of it as ``type`` and its
            options; ``None`` for that of ``arch``: window aligned for the release's sizes, absolute
            win for SAM 2's. See :mod:`hiera_mm.network.position`.
        rel_pos: ``'global'`` gives the blocks of global attention a relative position bias, one
            for rows and one for columns, that starts at zero; ``None`` for no such bias.
        frozen_stages: Parts that are not trained: -1 for none, 0 for the stem (patch and position
            embedding), i from 1 to 4 for the stem and the first i stages. Norms and
            projections of the outputs always train: they belong to what comes after the backbone.
        drop_path_rate: Stochastic depth rate of the last block, growing linearly from 0 at the
            first one. In [0, 1).
        with_cp: Activation checkpointing: less memory, about a third more time for training.
        in_channels: Channels of the image.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` for weights of any family that
            :mod:`hiera_mm.weights` knows, from a path, a URL or a short name, with the options of
            :func:`hiera_mm.weights.load` beside it; any other initialiser of mmengine; ``None`` for
            the release's random start.

    Attributes:
        out_channels: Channels of each output.
        strides: Pixels for each step of each output.

    Raises:
        ConfigError: If an argument is unknown, has a wrong type or an impossible value; an unknown
            name is answered with the nearest known one.
        CheckpointError: If ``arch='auto'`` and the weights cannot be read.

    Examples:
        >>> backbone = Hiera(arch='tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 100, 200))]
        [(1, 96, 25, 50), (1, 192, 13, 25), (1, 384, 7, 13), (1, 768, 4, 7)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, object] | Variant = 'tiny',
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_strides: Sequence[int] | None = None,
        out_channels: Sequence[int] | None = None,
        out_norm: Mapping[str, object] | None = {'type': 'LN'},
        pos_embed: str | Mapping[str, object] | None = None,
        rel_pos: str | None = None,
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        in_channels: int = 3,
        init_cfg: dict | list[dict] | None = None,
        **unknown: object,
    ) -> None:
        try:
            _refuse_unknown(unknown)
            if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= NUM_STAGES:
                raise ValueError(
                    f'frozen_stages must be -1 (none), 0 (the stem) or 1 to {NUM_STAGES} (the stem '
                    f'and that many stages), got {frozen_stages!r}'
                )
            arch = variant_of(arch, init_cfg)
            _check_outputs(out_indices, out_strides, out_channels)
            super().__init__(
                arch,
                out_indices=sorted(set(out_indices)) if out_strides else out_indices,
                out_norm_eps=_out_norm_eps(out_norm),
                pos_embed=pos_embed,
                rel_pos=rel_pos,
                drop_path_rate=drop_path_rate,
                with_cp=with_cp,
                in_channels=in_channels,
            )
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            # As an error of the config it reaches the command line as one paragraph.
            raise ConfigError(str(error)) from error
        # mmengine's constructor has run inside HieraTrunk's, which knows nothing of init_cfg.
        self.init_cfg = copy.deepcopy(init_cfg)
        # For each output, which of the features that the network returns it is made of.
        self._sources = [self.out_indices.index(stage) for stage in out_indices]
        self.outputs: Outputs | None = None
        if out_strides is not None or out_channels is not None:
            channels = [self.out_channels[source] for source in self._sources]
            strides = [self.strides[source] for source in self._sources]
            self.outputs = Outputs(channels, strides, out_channels, out_strides)
            self.out_channels = channels if out_channels is None else list(out_channels)
            self.strides = strides if out_strides is None else list(out_strides)
        self.frozen_stages = frozen_stages
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the features of a batch of images.

        Args:
            x: Normalised images of a floating dtype, ``(B, in_channels, H, W)``, any H, W >= 1.

        Returns:
            For each output i a map ``(B, out_channels[i], ceil(H / s), ceil(W / s))`` where s is
            ``strides[i]``.

        Raises:
            TypeError: If ``x`` is not a floating tensor.
            ValueError: If ``x`` is not 4-D, has other channels, or is empty.
        """
        features = super().forward(x)
        if self.outputs is None:
            return features
        return self.outputs([features[source] for source in self._sources], x.shape[-2:])

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; mmengine calls this before a training.

        Raises:
            CheckpointError: As :func:`hiera_mm.weights.load`.
        """
        pretrained = pretrained_by(self.init_cfg)
        if pretrained is None or self.is_init:
            super().init_weights()
            return
        weights.load(self, **pretrained)
        self.is_init = True

    def check_pretrained(self) -> None:
        """Find out whether the weights that ``init_cfg`` names will load, and load nothing.

        Raises:
            CheckpointError: As :func:`hiera_mm.weights.load`.
        """
        pretrained = pretrained_by(self.init_cfg)
        if pretrained is not None:
            weights.plan(self, **pretrained)

    def train(self, mode: bool = True) -> Hiera:
        """Set training mode; frozen parts stay in evaluation mode, without drop path."""
        super().train(mode)
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        num_blocks = sum(self.variant.depths[: self.frozen_stages])
        position = [getattr(self, name) for name in self.position_names]
        return [self.patch_embed, *position, *self.blocks[:num_blocks]]


class Projection(nn.Conv2d):
    """A 1x1 convolution that starts as those of necks do."""

    def reset_parameters(self) -> None:
        """Draw weights by Xavier's rule; biases are zero."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Outputs(nn.Module):
    """Turns features into maps of the strides and channels that their readers were made for.

    Heads are often written for a backbone of other strides: a dilated ResNet gives its last stage
    at stride 8, a plain ViT all of them at 16. Features resized to these strides cost next to
    nothing and leave the head's own resolution, and its cost, as they were.

    Args:
        channels: Channels of each feature that comes in.
        strides: Pixels for each step of each feature that comes in.
        out_channels: Channels that each is projected to by a 1x1 convolution; ``None`` to leave
            them.
        out_strides: Pixels for each step of each map that goes out; ``None`` to leave them.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: Sequence[int] | None,
        out_strides: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.strides = strides
        self.out_strides = out_strides
        self.projections = nn.ModuleList(
            Projection(dim, dim_out, kernel_size=1)
            for dim, dim_out in zip(channels, out_channels or (), strict=out_channels is not None)
        )

    def forward(
        self, features: Sequence[torch.Tensor], image_size: tuple[int, int]
    ) -> tuple[torch.Tensor, ...]:
        """Turn each feature ``(B, channels, H, W)`` into one of the strides and channels asked for.

        To a smaller stride a feature is interpolated linearly, to a larger one averaged.

        Args:
            features: The features.
            image_size: Height and width of the image they were made of.

        Returns:
            For each, ``(B, out_channels, ceil(height / stride), ceil(width / stride))``.
        """
        if self.projections:  # before resizing: mostly there are fewer places then
            features = [p(f) for p, f in zip(self.projections, features, strict=True)]
        if self.out_strides is None:
            return tuple(features)
        resized = []
        for feature, stride, out_stride in zip(
            features, self.strides, self.out_strides, strict=True
        ):
            if stride != out_stride:
                ratio = out_stride / stride
                matrix = mean_matrix if ratio > 1 else linear_matrix
                rows, columns = (
                    matrix(size, -(-side // out_stride), ratio, feature)
                    for size, side in zip(feature.shape[2:], image_size, strict=True)
                )
                memory_format = memory_format_of(feature)
                feature = resize(feature, rows, columns).contiguous(memory_format=memory_format)
            resized.append(feature)
        return tuple(resized)


def variant_of(arch: str | Mapping[str, object] | Variant, init_cfg: object = None) -> Variant:
    """Return the variant that ``arch`` names, or for ``'auto'`` that of the weights.

    Args:
        arch: As for :class:`Hiera`.
        init_cfg: As for :class:`Hiera`.

    Raises:
        TypeError: As for :func:`~hiera_mm.network.variants.resolve_variant`.
        ValueError: As there; also if ``init_cfg`` is impossible, or lacks weights for ``'auto'``.
        CheckpointError: If ``arch='auto'`` and the weights cannot be read.
    """
    pretrained = pretrained_by(init_cfg)
    if not isinstance(arch, str) or arch != 'auto':
        return resolve_variant(arch)
    if pretrained is None:
        raise ValueError(
            "arch='auto' takes the architecture from weights: name them with "
            "init_cfg=dict(type='Pretrained', checkpoint=...), or say arch='base'"
        )
    return weights.variant_of(pretrained['source'], pretrained.get('prefix'))


def _refuse_unknown(names: Mapping[str, object]) -> None:
    known = [name for name in inspect.signature(Hiera).parameters if name != 'unknown']
    for name in names:
        raise ValueError(
            f'Hiera has no argument {name!r}{did_you_mean(name, known)}; its arguments are '
            f'{", ".join(known)}'
        )


def _check_outputs(
    out_indices: Sequence[int],
    out_strides: Sequence[int] | None,
    out_channels: Sequence[int] | None,
) -> None:
    require_sequence(out_indices)
    for name, values in (('out_strides', out_strides), ('out_channels', out_channels)):
        if values is None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f'{name} must be a sequence of whole numbers or None, got {values!r}')
        if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
            raise ValueError(f'{name} must be whole numbers above 0, got {values!r}')
        if len(values) != len(out_indices):
            raise ValueError(
                f'{name} {tuple(values)} needs one number for each of out_indices '
                f'{tuple(out_indices)}'
            )


def pretrained_by(init_cfg: object) -> dict[str, object] | None:
    """Return the arguments of :func:`hiera_mm.weights.load` that ``init_cfg`` gives, if any."""
    several = isinstance(init_cfg, Sequence) and len(init_cfg) > 1
    for cfg in init_cfg if isinstance(init_cfg, Sequence) else [init_cfg]:
        if not isinstance(cfg, Mapping) or cfg.get('type', 'Pretrained') not in (
            'Pretrained', PretrainedInit,
        ):  # fmt: skip
            continue
        if several:
            raise ValueError('weights fill the whole backbone: give Pretrained alone in init_cfg')
        options = {'source': cfg.get('checkpoint'), **cfg}
        for key in ('type', 'checkpoint', 'map_location'):  # weights are read on the CPU anyway
            options.pop(key, None)
        known = list(inspect.signature(weights.load).parameters)[1:]  # the first is the network
        if not options['source'] or any(name not in known for name in options):
            raise ValueError(
                "init_cfg must be dict(type='Pretrained', checkpoint=...), if need be with the "
                f'options of hiera_mm.weights.load beside it ({", ".join(known[1:])}), or an '
                f'initialiser of mmengine; got {cfg}'
            )
        return options
    return None


def _out_norm_eps(out_norm: Mapping[str, object] | None) -> float | None:
    """Return the epsilon of the output norms, or ``None`` if there are to be none."""
    if out_norm is None:
        return None
    if not isinstance(out_norm, Mapping):
        raise TypeError(f"out_norm must be dict(type='LN') or None, got {out_norm!r}")
    options = {'eps': NORM_EPS, **out_norm}
    if options.pop('type', None) not in ('LN', nn.LayerNorm) or set(options) != {'eps'}:
        raise ValueError(
            f"out_norm must be dict(type='LN') with an optional eps, or None; got {out_norm}. "
            'For another kind of norm use None here and norm_cfg in the neck.'
        )
    return float(options['eps'])
