"""Decomposed relative position in attention (MViTv2, arXiv 2112.01526, section 4.1; ViTDet)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .layout import to_units
from .resize import linear_matrix, multiply


def attend_with_relative_position(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    grid: tuple[int, int],
) -> torch.Tensor:
    """Attend over a whole map, with a bias for the distance in rows and one for that in columns.

    The logit of query i and key j is ``q_i k_j / sqrt(d) + q_i h(i, j) + q_i w(i, j)``, where h
    and w are the tables' entries for their distances. The biases are written as further channels of
    queries and keys, a key's being its place as a one-hot vector. So the fused kernels still apply,
    and no matrix of all pairs is kept.

    Args:
        q: Queries in mask-unit-major order, ``(B, heads, queries, d)``; as many as keys, or a
            quarter after query pooling.
        k: Keys, ``(B, heads, tokens, d)``.
        v: Values, of the same shape.
        tables: For rows and for columns, a vector for each distance: ``(2 * side - 1, d)``. For a
            map of another side they are resized linearly.
        grid: Rows and columns of mask units.

    Returns:
        ``(B, heads, queries, d)``.
    """
    units = grid[0] * grid[1]
    key_side, query_side = (math.isqrt(x.shape[2] // units) for x in (k, q))
    queries, keys = [q * q.shape[-1] ** -0.5], [k]
    for axis, table in enumerate(tables):
        side = grid[axis] * key_side
        matrix = linear_matrix(len(table), 2 * side - 1, len(table) / (2 * side - 1), table)
        table = multiply(matrix, table).to(q.dtype)
        places = torch.arange(side, device=q.device)
        # After pooling a query stands for a 2x2 patch of keys. Distances are counted in keys.
        at_query = coordinate(axis, grid, query_side, q.device) * (key_side // query_side)
        at_key = coordinate(axis, grid, key_side, k.device)
        distance = at_query[:, None] - places + side - 1
        queries.append((q @ table.T).gather(3, distance.expand(*q.shape[:2], -1, -1)))
        one_hot = (at_key[:, None] == places).to(k.dtype)
        keys.append(one_hot.expand(*k.shape[:2], -1, -1))
    query, key = torch.cat(queries, dim=-1), torch.cat(keys, dim=-1)
    # The fused kernels want a multiple of 8 channels, and values as wide as keys.
    width = -(-query.shape[-1] // 8) * 8
    query, key, value = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, v))
    out = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return out[..., : v.shape[-1]]


def coordinate(axis: int, grid: tuple[int, int], side: int, device: torch.device) -> torch.Tensor:
    """Return the row (``axis`` 0) or column (1) of each token on the map.

    Args:
        axis: Which of the two.
        grid: Rows and columns of mask units.
        side: Rows and columns of tokens of a unit.
        device: Where the result is needed.

    Returns:
        Integers ``(units * side * side,)`` in mask-unit-major order.
    """
    rows, columns = grid[0] * side, grid[1] * side
    places = torch.arange((rows, columns)[axis], device=device)
    places = places[:, None] if axis == 0 else places[None]
    return to_units(places.expand(1, 1, rows, columns), grid, side).flatten()
