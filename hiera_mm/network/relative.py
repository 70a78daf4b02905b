"""Decomposed relative position in attention (MViTv2, arXiv 2112.01526, section 4.1; ViTDet)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .layout import coordinates, window_side


def attend_with_relative_position(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    window_grid: tuple[int, int],
) -> torch.Tensor:
    """Attend over a whole map, with a bias for the distance in rows and one for that in columns.

    The logit of query i and key j is ``q_i k_j / sqrt(d) + q_i h(i, j) + q_i w(i, j)``, where h
    and w are the tables' entries for their distances. The biases are written as further channels of
    queries and keys, a key's being its place as a one-hot vector. So the fused kernels still apply,
    and no matrix of all pairs is kept.

    Args:
        q: Queries in window-major order, ``(B, heads, queries, d)``; as many as keys, or a quarter
            after query pooling.
        k: Keys, ``(B, heads, tokens, d)``.
        v: Values, of the same shape.
        tables: For rows and for columns, a vector for each distance: ``(2 * side - 1, d)``. For a
            map of another side they are resized linearly.
        window_grid: Rows and columns of windows.

    Returns:
        ``(B, heads, queries, d)``.
    """
    windows = window_grid[0] * window_grid[1]
    query_tokens, key_tokens = q.shape[2] // windows, k.shape[2] // windows
    # After pooling a query stands for a 2x2 patch of keys. Distances are counted in keys.
    pooled = window_side(key_tokens) // window_side(query_tokens)
    query_places = coordinates(window_grid, query_tokens, q.device)
    key_places = coordinates(window_grid, key_tokens, k.device)
    queries, keys = [q * q.shape[-1] ** -0.5], [k]
    for axis, table in enumerate(tables):
        side = window_grid[axis] * window_side(key_tokens)
        table = _resize(table, 2 * side - 1).to(q.dtype)
        places = torch.arange(side, device=q.device)
        distance = query_places[axis][:, None] * pooled - places + side - 1
        queries.append((q @ table.T).gather(3, distance.expand(*q.shape[:2], -1, -1)))
        key_place = (key_places[axis][:, None] == places).to(k.dtype)
        keys.append(key_place.expand(*k.shape[:2], -1, -1))
    query, key = torch.cat(queries, dim=-1), torch.cat(keys, dim=-1)
    extra = query.shape[-1] - v.shape[-1]
    # The fused kernels want values as wide as keys.
    out = F.scaled_dot_product_attention(query, key, F.pad(v, (0, extra)), scale=1.0)
    return out[..., : v.shape[-1]]


def _resize(table: torch.Tensor, length: int) -> torch.Tensor:
    """Resize a table ``(entries, d)`` linearly to ``length`` entries, in float32 at least."""
    if table.shape[0] == length:
        return table
    precise = table if table.dtype == torch.float64 else table.float()
    return F.interpolate(precise.T[None], size=length, mode='linear')[0].T
