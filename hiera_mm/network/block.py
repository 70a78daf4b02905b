"""The Hiera block: attention with query pooling, and an MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layout import join_units, max_pool, mean_pool, split_windows
from .relative import attend_with_relative_position

NORM_EPS = 1e-6
MLP_RATIO = 4


class Linear(nn.Linear):
    """A linear layer that starts as the release's do."""

    def reset_parameters(self) -> None:
        """Draw weights from a normal distribution of deviation 0.02; biases are 0.02.

        The release cuts the distribution at a hundred deviations, so it cuts nothing.
        """
        nn.init.normal_(self.weight, std=0.02)
        nn.init.constant_(self.bias, 0.02)


class LayerNorm(nn.LayerNorm):
    """A norm that starts as the release's do."""

    def reset_parameters(self) -> None:
        """Set weights to 1 and biases to 0.02."""
        nn.init.ones_(self.weight)
        nn.init.constant_(self.bias, 0.02)


class Attention(nn.Module):
    """Multi-head self-attention inside windows or over the whole map (Hiera, section 3.1).

    Args:
        dim: Channels that come in.
        dim_out: Channels that go out.
        num_heads: Number of heads; divides ``dim_out``.
        window: Side of the attention windows in mask units; 0 for global attention.
        pool: Whether queries are max-pooled 2x2, which quarters the tokens of each window.
        rel_pos_side: Side of the map, in tokens, for which a relative position bias is learnt;
            ``None`` for no such bias. For global attention only.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        window: int,
        pool: bool,
        rel_pos_side: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.pool = pool
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)
        self.has_rel_pos = rel_pos_side is not None
        if rel_pos_side is not None:
            entries = (2 * rel_pos_side - 1, dim_out // num_heads)
            self.rel_pos_h = nn.Parameter(torch.empty(entries))
            self.rel_pos_w = nn.Parameter(torch.empty(entries))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let the relative position bias start at zero."""
        if self.has_rel_pos:
            nn.init.zeros_(self.rel_pos_h)
            nn.init.zeros_(self.rel_pos_w)

    def forward(
        self, x: torch.Tensor, grid: tuple[int, int], queries: int | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: Tokens in mask-unit-major order, ``(B, units, tokens, dim)``.
            grid: Rows and columns of mask units.
            queries: With global attention, how many tokens ask, the last ones of ``x``, whose
                results alone are returned, as one unit; ``None`` for all.

        Returns:
            ``(B, units, tokens, dim_out)``, or a quarter of the tokens with query pooling.
        """
        batch, units = x.shape[:2]
        # Windows become part of the batch, or one long sequence. Four dimensions are what the
        # fused kernels of scaled_dot_product_attention take.
        if self.window == 0:
            x = x.flatten(1, 2)
        elif self.window == 1:
            x = x.flatten(0, 1)
        else:
            x = join_units(x, grid, self.window)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = max_pool(q)
        if queries is not None:
            q, units = q[:, -queries:], 1
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        if self.window == 0:
            # Every block of queries reads all keys and values, which is faster where the rows of
            # a head lie beside each other.
            k, v = k.contiguous(), v.contiguous()
        if self.has_rel_pos:
            tables = (self.rel_pos_h, self.rel_pos_w)
            x = attend_with_relative_position(q, k, v, tables, grid)
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).flatten(2)
        if self.window > 1:
            x = split_windows(x, grid, self.window)
        x = self.proj(x)
        return x.reshape(batch, units, -1, x.shape[-1])


class LayerScale(nn.Module):
    """A learnt factor for each channel (arXiv 2103.17239, section 2).

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start almost without the branch that is scaled."""
        nn.init.constant_(self.gamma, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale ``(..., dim)``."""
        return x * self.gamma


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each token, ``(..., dim)``, on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: while training, drops a residual branch for whole samples.

    Args:
        rate: Probability that the branch of a sample is dropped.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop samples of ``x`` (``(B, ...)``) and scale the others so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))

    def extra_repr(self) -> str:
        """Name the rate where the network is printed."""
        return f'rate={self.rate:g}'


class Block(nn.Module):
    """A pre-norm transformer block; the first one of a stage may change channels and pool.

    Args:
        dim: Channels that come in.
        dim_out: Channels that go out.
        num_heads: Number of attention heads.
        window: Side of the attention windows in mask units; 0 for global attention.
        pool: Whether the block halves the resolution by query pooling.
        drop_path: Probability of dropping each residual branch while training.
        layer_scale: Whether both branches end in a :class:`LayerScale`.
        shortcut: What takes the place of the identity where channels change; see
            :class:`~hiera_mm.network.Variant`.
        rel_pos_side: As for :class:`Attention`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        window: int,
        pool: bool,
        drop_path: float = 0.0,
        layer_scale: bool = False,
        shortcut: str = 'proj',
        rel_pos_side: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, dim_out, num_heads, window, pool, rel_pos_side)
        self.changes_dim = dim != dim_out
        # Where channels change there is no identity to add to.
        self.proj = Linear(dim, dim_out) if self.changes_dim and shortcut == 'proj' else None
        self.ls1 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.norm2 = LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = Mlp(dim_out, MLP_RATIO * dim_out)
        self.ls2 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: torch.Tensor, grid: tuple[int, int], queries: int | None = None
    ) -> torch.Tensor:
        """Transform tokens ``(B, units, tokens, dim)`` as :class:`Attention` does."""
        normed = self.norm1(x)
        if self.proj is not None:
            # As in the release, the shortcut starts from the normalised tokens.
            x = self.proj(normed)
            if self.attn.pool:
                x = max_pool(x)
        elif self.changes_dim:
            x = torch.cat([max_pool(x), mean_pool(x)] if self.attn.pool else [x, x], dim=-1)
        if queries is not None:
            x = x.flatten(1, 2)[:, None, -queries:]
        x = x + self.drop_path(self.ls1(self.attn(normed, grid, queries)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
