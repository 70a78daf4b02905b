"""The network: stem, stages, features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import strips
from .block import NORM_EPS, Block
from .layout import MASK_UNIT, to_image, to_units
from .position import PRETRAIN_GRID, PositionEmbedding, make_position_embedding
from .variants import NUM_STAGES, Variant, resolve_variant

PATCH_STRIDE = 4
STRIDES = tuple(PATCH_STRIDE * 2**stage for stage in range(NUM_STAGES))
UNIT_PIXELS = PATCH_STRIDE * MASK_UNIT
"""Side of a mask unit."""


class PatchConv(nn.Conv2d):
    """The convolution of the patch embedding, which starts as the release's does."""

    def reset_parameters(self) -> None:
        """Draw weights from a normal distribution of deviation 0.02, biases as torch does."""
        nn.init.normal_(self.weight, std=0.02)
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.bias, -bound, bound)


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: a 7x7 convolution of stride 4."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = PatchConv(in_channels, dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed an image ``(B, in_channels, H, W)`` as ``(B, dim, H / 4, W / 4)``."""
        return self.proj(x)


class HieraTrunk(nn.Module):
    """Hiera as a feature extractor for images of any size (arXiv 2306.00989).

    Parameter names are those of the release (``facebookresearch/hiera``).

    Args:
        arch: The name of a published Hiera (see :data:`~hiera_mm.network.VARIANTS`), or a dict
            with the fields of :class:`~hiera_mm.network.Variant`.
        out_indices: Stages, of 0 to 3, whose features are returned; ascending. Stages after the
            last one are not built: parameters without a gradient would stop DDP.
        out_norm_eps: Epsilon of the LayerNorm that follows each output; ``None`` for no norm.
        pos_embed: Kind of position embedding (see :data:`~hiera_mm.network.position.KINDS`), or
            a dict of its name as ``type`` and its options; ``None`` for the variant's own.
        rel_pos: ``'global'`` gives the blocks of global attention a relative position bias that
            starts at zero; ``None`` for no such bias.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0 at the
            first one. In [0, 1).
        with_cp: Activation checkpointing: while training, the activations inside a block are
            computed again in the backward pass instead of being kept.
        in_channels: Channels of the image.

    Attributes:
        variant: The resolved ``arch``.
        out_channels: Channels of each output.
        strides: Pixels for each step of each output.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has an impossible value.
    """

    def __init__(
        self,
        arch: str | Mapping[str, object] | Variant = 'tiny',
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_eps: float | None = NORM_EPS,
        pos_embed: str | Mapping[str, object] | PositionEmbedding | None = None,
        rel_pos: str | None = None,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.variant = resolve_variant(arch)
        self.out_indices = _check_out_indices(out_indices)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {drop_path_rate}')
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels must be a whole number above 0, got {in_channels!r}')
        if rel_pos not in (None, 'global'):
            raise ValueError(f"rel_pos must be 'global' or None, got {rel_pos!r}")
        self.in_channels = in_channels
        self.with_cp = with_cp
        dims = self.variant.dims
        depths = self.variant.depths[: self.out_indices[-1] + 1]
        self.out_channels = [dims[stage] for stage in self.out_indices]
        self.strides = [self.stride_of(stage) for stage in self.out_indices]

        self.position = (
            self.variant.pos_embed if pos_embed is None else make_position_embedding(pos_embed)
        )
        self.position_names = tuple(self.position.shapes(dims[0]))
        for name, shape in self.position.shapes(dims[0]).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()
        self.patch_embed = PatchEmbed(in_channels, dims[0])
        self.blocks = nn.ModuleList()
        self.stage_after: dict[int, int] = {}  # by the index of the last block of each output
        for stage, depth in enumerate(depths):
            for index in range(depth):
                # The first block of a later stage is where its channels begin and queries are
                # pooled. It still attends as the stage before it does, on that stage's tokens.
                entry = index == 0 and stage > 0
                home = stage - 1 if entry else stage
                number = len(self.blocks)
                units = self.variant.window_units(home)
                window = 0 if number in self.variant.global_blocks else units
                side = PRETRAIN_GRID[0] * self.variant.unit_side(home) // MASK_UNIT
                self.blocks.append(
                    Block(
                        dim=dims[home],
                        dim_out=dims[stage],
                        num_heads=self.variant.num_heads * 2**stage,
                        window=window,
                        pool=entry and stage <= self.variant.q_pool,
                        drop_path=drop_path_rate * number / max(1, sum(depths) - 1),
                        layer_scale=self.variant.layer_scale,
                        shortcut=self.variant.shortcut,
                        rel_pos_side=side if rel_pos and not window else None,
                    )
                )
            if stage in self.out_indices:
                self.stage_after[len(self.blocks) - 1] = stage
        # Not part of the pretrained network, these start as if they were not there.
        self.out_norms = nn.ModuleDict()
        if out_norm_eps is not None:
            for stage in self.out_indices:
                self.out_norms[str(stage)] = nn.LayerNorm(dims[stage], eps=out_norm_eps)

    def reset_parameters(self) -> None:
        """Draw the position embedding anew; every other parameter is drawn by its own module."""
        for name in self.position_names:
            nn.init.normal_(getattr(self, name), std=0.02)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the features of a batch of images.

        An image whose sides are not multiples of 32 is padded with zeros at the right and at the
        bottom, and the features are cropped to the part that the image reaches.

        Args:
            x: Normalised images of a floating dtype, ``(B, in_channels, H, W)``, any H, W >= 1.

        Returns:
            For each output index i a map ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``, where C_i
            is in ``out_channels`` and s_i in ``strides``.

        Raises:
            TypeError: If ``x`` is not a floating tensor.
            ValueError: If ``x`` is not 4-D, has other channels, or is empty.
        """
        self.check_image(x)
        memory_format = memory_format_of(x)
        height, width = x.shape[-2:]
        grid = (-(-height // UNIT_PIXELS), -(-width // UNIT_PIXELS))
        if strips.apply_to(self, x):
            maps = strips.run(self, self.embed(x, grid), grid, memory_format)
        else:
            x = self.embed(x, grid)
            maps = []
            for index, block in enumerate(self.blocks):
                x = self.apply_block(block, x, grid)
                if index in self.stage_after:
                    maps.append(self.output(index, x, grid))
        features = []
        for stage, feature in zip(self.out_indices, maps, strict=True):
            stride = self.stride_of(stage)
            rows, columns = (-(-side // stride) for side in (height, width))
            feature = feature[..., :rows, :columns]
            features.append(feature.contiguous(memory_format=memory_format))
        return tuple(features)

    def embed(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Turn images into tokens.

        Args:
            x: Images ``(B, in_channels, H, W)``.
            grid: Rows and columns of the mask units that cover them.

        Returns:
            ``(B, units, 64, C)``, in mask-unit-major order, with the position embedding.
        """
        height, width = (side * UNIT_PIXELS for side in grid)
        padding = (0, width - x.shape[-1], 0, height - x.shape[-2])
        if any(padding):
            x = F.pad(x, padding)
        # Tokens have their channels last, so this is how the stem had best make them.
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        parameters = {name: getattr(self, name) for name in self.position_names}
        x = x + self.position.resize(parameters, (grid[0] * MASK_UNIT, grid[1] * MASK_UNIT))
        return to_units(x, grid)

    def apply_block(self, block: Block, *args: object) -> torch.Tensor:
        """Run one block, with activation checkpointing where ``with_cp`` asks for it."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def stride_of(self, stage: int) -> int:
        """Return the pixels for each step of a stage's map."""
        return UNIT_PIXELS // self.variant.unit_side(stage)

    def output(self, index: int, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the map of the stage that ends with block ``index``, normed if there are norms."""
        if self.out_norms:
            x = self.out_norms[str(self.stage_after[index])](x)
        return to_image(x, grid)

    def check_image(self, x: torch.Tensor) -> None:
        """Raise the errors of :meth:`forward` unless ``x`` is a batch of images."""
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(
                f'Hiera takes a normalised image batch of a floating dtype, got {kind}; '
                'convert it with .float() and normalise it (a data preprocessor does both)'
            )
        if x.ndim != 4:
            raise ValueError(
                f'Hiera takes a batch (B, {self.in_channels}, H, W), got a {x.ndim}-D tensor of '
                f'shape {tuple(x.shape)}; a single image needs image[None]'
            )
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f'this Hiera takes images of {self.in_channels} channels, got {x.shape[1]} '
                f'(shape {tuple(x.shape)}); set in_channels={x.shape[1]} to train on such images'
            )
        if 0 in x.shape:
            raise ValueError(
                f'Hiera needs at least one image of at least 1x1 pixel, got shape {tuple(x.shape)}'
            )


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    require_sequence(out_indices)
    indices = tuple(out_indices)
    if not indices:
        raise ValueError('out_indices is empty; name at least one of the stages 0, 1, 2, 3')
    for index in indices:
        if not isinstance(index, int) or not 0 <= index < NUM_STAGES:
            raise ValueError(
                f'out_indices {indices} names {index!r}; Hiera has the stages 0, 1, 2, 3'
            )
    if any(a >= b for a, b in pairwise(indices)):
        raise ValueError(
            f'out_indices must ascend without repetition, got {indices}; '
            f'did you mean {tuple(sorted(set(indices)))}?'
        )
    return indices


def require_sequence(out_indices: object) -> None:
    """Raise a TypeError unless ``out_indices`` is a sequence."""
    if isinstance(out_indices, str) or not isinstance(out_indices, Sequence):
        raise TypeError(f'out_indices must be a sequence such as (0, 1, 2, 3), got {out_indices!r}')


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """Return the format of an image, as a convolution tells it."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
