"""The network: stem, stages, features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .block import MLP_RATIO, NORM_EPS, Attention, Block, LayerScale
from .layout import MASK_UNIT, to_image, to_windows
from .position import PRETRAIN_GRID, EvaluationCache, PositionEmbedding, make_position_embedding
from .strips import join, strips
from .variants import NUM_STAGES, Variant, resolve_variant

PATCH_STRIDE = 4
STRIDES = tuple(PATCH_STRIDE * 2**stage for stage in range(NUM_STAGES))
WINDOW_PIXELS = PATCH_STRIDE * MASK_UNIT


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: a 7x7 convolution of stride 4."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

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
        self.strides = [STRIDES[stage] for stage in self.out_indices]

        self.position = (
            self.variant.pos_embed if pos_embed is None else make_position_embedding(pos_embed)
        )
        self.position_names = tuple(self.position.shapes(dims[0]))
        self._position_cache = EvaluationCache()
        drop_path = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self._stage_ending_with: dict[int, int] = {}
        # Made without memory, where initialising costs nothing: the layers would first draw
        # weights in their own way, all of which reset_parameters draws again.
        device = torch.empty(0).device
        with torch.device('meta'):
            self.patch_embed = PatchEmbed(in_channels, dims[0])
            for name, shape in self.position.shapes(dims[0]).items():
                self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            self.blocks = nn.ModuleList()
            for stage, depth in enumerate(depths):
                for index in range(depth):
                    # The first block of a later stage is where its channels begin and queries
                    # are pooled. It still attends as the stage before it does, on that stage's
                    # tokens.
                    entry = index == 0 and stage > 0
                    home = stage - 1 if entry else stage
                    units = self.variant.window_sizes[home] // (MASK_UNIT >> home)
                    window = 0 if len(self.blocks) in self.variant.global_blocks else units
                    rel_pos_side = PRETRAIN_GRID[0] >> home if rel_pos and not window else None
                    self.blocks.append(
                        Block(
                            dim=dims[home],
                            dim_out=dims[stage],
                            num_heads=self.variant.num_heads * 2**stage,
                            window=window,
                            pool=entry,
                            drop_path=drop_path[len(self.blocks)],
                            layer_scale=self.variant.layer_scale,
                            shortcut=self.variant.shortcut,
                            rel_pos_side=rel_pos_side,
                        )
                    )
                self._stage_ending_with[len(self.blocks) - 1] = stage
            self.out_norms = nn.ModuleDict(
                {str(i): nn.LayerNorm(dims[i], eps=out_norm_eps) for i in self.out_indices}
                if out_norm_eps is not None
                else {}
            )
        self.to_empty(device=device)
        self.reset_parameters()
        windows = groupby(range(len(self.blocks)), lambda index: self.blocks[index].attn.window)
        indices = [list(group) for _, group in windows]
        self._runs = [range(group[0], group[-1] + 1) for group in indices]

    def reset_parameters(self) -> None:
        """Draw new weights as the release does: normal with deviation 0.02, biases 0.02.

        The norms of the outputs, which are no part of the pretrained network, and relative position
        biases start as if they were not there.
        """
        for name in self.position_names:
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        stem = self.patch_embed.proj
        nn.init.trunc_normal_(stem.weight, std=0.02)
        # The release leaves this bias as torch draws that of every convolution.
        bound = stem.weight[0].numel() ** -0.5
        nn.init.uniform_(stem.bias, -bound, bound)
        for norm in self.out_norms.values():
            norm.reset_parameters()
        for module in self.blocks.modules():
            if isinstance(module, Attention) and module.has_rel_pos:
                nn.init.zeros_(module.rel_pos_h)
                nn.init.zeros_(module.rel_pos_w)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.constant_(module.bias, 0.02)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.constant_(module.bias, 0.02)
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, LayerScale.INITIAL)

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
        self._check_image(x)
        memory_format = _memory_format(x)
        height, width = x.shape[-2:]
        window_grid = (_ceil_div(height, WINDOW_PIXELS), _ceil_div(width, WINDOW_PIXELS))
        padding = (
            window_grid[0] * WINDOW_PIXELS - height,
            window_grid[1] * WINDOW_PIXELS - width,
        )
        if padding != (0, 0):
            x = F.pad(x, (0, padding[1], 0, padding[0]))

        # Tokens have their channels last, so this is how the stem had best make them.
        x = x.contiguous(memory_format=torch.channels_last)
        x = to_windows(self.patch_embed(x)) + self._position_tokens(window_grid)
        maps: dict[int, torch.Tensor] = {}
        for blocks in self._runs:
            x, finished = self._forward_run(x, window_grid, blocks, memory_format)
            maps |= finished
        features = []
        for stage in self.out_indices:
            rows, columns = (_ceil_div(side, STRIDES[stage]) for side in (height, width))
            feature = maps[stage][..., :rows, :columns]
            features.append(feature.contiguous(memory_format=memory_format))
        return tuple(features)

    def _forward_run(
        self,
        x: torch.Tensor,
        window_grid: tuple[int, int],
        blocks: range,
        memory_format: torch.memory_format,
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Run consecutive blocks of the same windows.

        Returns:
            The tokens, and the map of each stage of ``out_indices`` that ends with a block.
        """
        window = self.blocks[blocks[0]].attn.window
        whole = self.training or window == 0
        tokens: list[torch.Tensor] = []
        maps: dict[int, list[torch.Tensor]] = {}
        for strip, grid in strips(x, window_grid, max(1, window), MLP_RATIO, whole):
            for index in blocks:
                block = self.blocks[index]
                if self.with_cp and self.training and torch.is_grad_enabled():
                    strip = checkpoint(block, strip, grid, use_reentrant=False)
                else:
                    strip = block(strip, grid)
                stage = self._stage_ending_with.get(index)
                if stage in self.out_indices:
                    out = self.out_norms[str(stage)](strip) if self.out_norms else strip
                    image = to_image(out, grid).contiguous(memory_format=memory_format)
                    maps.setdefault(stage, []).append(image)
            tokens.append(strip)
        return join(tokens, dim=1), {stage: join(parts, dim=2) for stage, parts in maps.items()}

    def _position_tokens(self, window_grid: tuple[int, int]) -> torch.Tensor:
        """Return the position embedding in window-major order, ``(1, windows, 64, dim)``."""
        grid = (window_grid[0] * MASK_UNIT, window_grid[1] * MASK_UNIT)
        parameters = {name: getattr(self, name) for name in self.position_names}
        sources = tuple(parameters.values())

        def make() -> torch.Tensor:
            return to_windows(self.position.resize(parameters, grid))

        # Elsewhere than on a CPU the comparison that keeps the cache true would make the program
        # wait for the device, which costs more than resizing there.
        cacheable = (
            not self.training
            and not (torch.is_grad_enabled() and any(p.requires_grad for p in sources))
            and all(p.device.type == 'cpu' for p in sources)
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
        )
        return self._position_cache.get(grid, sources, make) if cacheable else make()

    def _check_image(self, x: torch.Tensor) -> None:
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
    if isinstance(out_indices, (int, str)):
        raise TypeError(f'out_indices must be a sequence such as (0, 1, 2, 3), got {out_indices!r}')
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


def _memory_format(x: torch.Tensor) -> torch.memory_format:
    """Return the format of an image, as a convolution tells it."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
