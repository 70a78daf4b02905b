"""The Hiera block: attention with query pooling, and an MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layout import join_windows, mean_pool, pool_queries, split_windows
from .relative import attend_with_relative_position
from .strips import is_recorded, strips

NORM_EPS = 1e-6
MLP_RATIO = 4


class Linear(nn.Linear):
    """A linear layer that lets a compiler for the CPU add the bias.

    The compiler hands matrix products to a library, before which torch copies the bias into the
    whole of the result. Kept apart, the bias is added where compiled code reads the result anyway.
    Not so for half precision, where the sum would be rounded once more.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform ``(..., in_features)`` to ``(..., out_features)``."""
        if (
            torch.compiler.is_compiling()
            and x.device.type == 'cpu'
            and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled('cpu')
        ):
            return F.linear(x, self.weight) + self.bias
        return super().forward(x)


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

    def forward(self, x: torch.Tensor, window_grid: tuple[int, int]) -> torch.Tensor:
        """Attend.

        Args:
            x: Tokens in window-major order, ``(B, windows, tokens, dim)``, a mask unit to a window.
            window_grid: Rows and columns of mask units.

        Returns:
            ``(B, windows, tokens, dim_out)``, or a quarter of the tokens with query pooling.
        """
        batch, windows = x.shape[:2]
        # Windows become part of the batch, or one long sequence. Four dimensions are what the
        # fused kernels of scaled_dot_product_attention take.
        if self.window == 0:
            x = x.flatten(1, 2)
        elif self.window == 1:
            x = x.flatten(0, 1)
        else:
            x = join_windows(x, window_grid, self.window)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        if self.pool:
            q = pool_queries(q)
        if self.window == 0 and x.device.type == 'cpu' and not is_recorded():
            # Each block of queries reads all keys and values, so that it pays to put the rows of
            # a head beside each other first.
            k, v = k.contiguous(), v.contiguous()
        if self.has_rel_pos:
            tables = (self.rel_pos_h, self.rel_pos_w)
            x = attend_with_relative_position(q, k, v, tables, window_grid)
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).flatten(2)
        if self.window > 1:
            x = split_windows(x, window_grid, self.window)
        return self.proj(x).reshape(batch, windows, -1, self.proj.out_features)


class LayerScale(nn.Module):
    """A learnt factor for each channel (arXiv 2103.17239, section 2).

    Args:
        dim: Channels.
    """

    INITIAL = 1e-5

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

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
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, dim_out, num_heads, window, pool, rel_pos_side)
        self.changes_dim = dim != dim_out
        # Where channels change there is no identity to add to.
        self.proj = Linear(dim, dim_out) if self.changes_dim and shortcut == 'proj' else None
        self.ls1 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = Mlp(dim_out, MLP_RATIO * dim_out)
        self.ls2 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor, window_grid: tuple[int, int]) -> torch.Tensor:
        """Transform tokens ``(B, windows, tokens, dim)`` as :class:`Attention` does."""
        normed = self.norm1(x)
        if self.proj is not None:
            # As in the release, the shortcut starts from the normalised tokens.
            x = self.proj(normed)
            if self.attn.pool:
                x = pool_queries(x)
        elif self.changes_dim:
            x = torch.cat([pool_queries(x), mean_pool(x)], dim=-1)
        x = x + self.drop_path(self.ls1(self.attn(normed, window_grid)))
        if is_recorded():
            return x + self._mlp_branch(x)
        # A block with windows gets no more than a strip; one of global attention is cut up here.
        for piece, _ in strips(x, window_grid, 1, MLP_RATIO, whole=self.training):
            piece += self._mlp_branch(piece)  # a part of x, which is this block's own
        return x

    def _mlp_branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop_path(self.ls2(self.mlp(self.norm2(x))))
