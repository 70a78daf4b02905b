"""Token layout: image grid <-> mask units.

Between patch embedding and output, tokens are kept in **mask-unit-major order**, as a tensor
``(B, units, tokens, C)``. A mask unit is 32x32 pixels, 8x8 tokens after the patch embedding. The
units follow each other row by row.

Inside a unit the order is nested: first the four quarters of the unit, inside each quarter its
four quarters, and so on (the Z-order curve). Any four neighbours ``4k .. 4k + 3`` are therefore
one 2x2 patch of the map. Query pooling is a maximum over such four, and what it leaves is again a
unit in nested order, one level less deep: 8x8, 4x4, 2x2 and finally 1x1 tokens, one size for each
stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MASK_UNIT = 8
"""Side of a mask unit in tokens of the first stage."""


def to_units(x: torch.Tensor, grid: tuple[int, int], side: int = MASK_UNIT) -> torch.Tensor:
    """Bring a map into mask-unit-major order.

    Args:
        x: A map ``(B, C, rows * side, columns * side)``.
        grid: Rows and columns of units.
        side: Rows and columns of tokens of a unit: 8, 4, 2 or 1.

    Returns:
        The tokens, ``(B, rows * columns, side * side, C)``.
    """
    batch, channels = x.shape[:2]
    rows, columns = grid
    tokens = side * side
    x = x.permute(0, 2, 3, 1)
    # Every 2x2 patch becomes one longer entry, three times over.
    length = channels
    while side > 1:
        side, length = side // 2, 4 * length
        x = x.reshape(batch, rows * side, 2, columns * side, length // 2).transpose(2, 3)
    return x.reshape(batch, rows * columns, tokens, channels)


def to_image(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Restore image order; the inverse of :func:`to_units`, for any stage.

    Args:
        x: Tokens ``(B, rows * columns, tokens, C)``, where ``tokens`` is 64, 16, 4 or 1.
        grid: Rows and columns of units.

    Returns:
        A map ``(B, C, rows * side, columns * side)``, where ``side`` is the square root of
        ``tokens``; in memory its channels come last, as those of tokens do.
    """
    batch, _, tokens, channels = x.shape
    rows, columns = grid
    side, length = 1, tokens * channels
    while length > channels:
        length //= 4
        x = x.reshape(batch, rows * side, columns * side, 2, 2 * length).transpose(2, 3)
        side *= 2
    return x.reshape(batch, rows * side, columns * side, channels).permute(0, 3, 1, 2)


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """Max-pool every 2x2 patch of tokens (Hiera, section 3.1).

    Where several tokens are the largest, the first one gets the gradient, as in the release and in
    SAM 2. ``amax`` would share it among them.

    Args:
        x: Tokens ``(..., tokens, C)`` in nested order.

    Returns:
        The pooled tokens, ``(..., tokens / 4, C)``.
    """
    patches = x.reshape(1, -1, 4, x.shape[-1]).permute(0, 3, 1, 2)
    pooled = F.max_pool2d(patches, kernel_size=(1, 4)).permute(0, 2, 3, 1)
    return pooled.reshape(*x.shape[:-2], -1, x.shape[-1])


def mean_pool(x: torch.Tensor) -> torch.Tensor:
    """Average every 2x2 patch of tokens; shapes as in :func:`max_pool`."""
    return x.unflatten(-2, (-1, 4)).mean(dim=-2)


def join_units(x: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Join squares of ``side`` x ``side`` mask units into windows.

    Where ``side`` does not divide the grid, units of zeros complete the last row and column, as
    SAM 2 pads the map before it attends.

    Args:
        x: Tokens ``(B, units, tokens, C)``.
        grid: Rows and columns of units.
        side: Rows and columns of units of a window.

    Returns:
        The windows, ``(B * windows, side * side * tokens, C)``. Inside a window the tokens of each
        unit stay together.
    """
    batch, _, tokens, channels = x.shape
    rows, columns = grid
    # Nothing happens inside a unit, so each one is moved as a single piece of memory.
    x = x.reshape(batch, rows, columns, tokens * channels)
    x = F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return x.reshape(-1, side * side * tokens, channels)


def split_windows(x: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Undo :func:`join_units`, whatever became of the number of tokens and channels.

    Args:
        x: Windows ``(B * windows, side * side * tokens, C)``.
        grid: Rows and columns of units that were joined.
        side: Rows and columns of units of a window.

    Returns:
        Tokens ``(B, units, tokens, C)``, those of completing units left out.
    """
    rows, columns = grid
    channels = x.shape[-1]
    unit = x.shape[1] // side**2 * channels
    x = x.reshape(-1, -(-rows // side), -(-columns // side), side, side, unit)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :rows, :columns].reshape(x.shape[0], rows * columns, -1, channels)
