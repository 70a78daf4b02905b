"""Token layout: image grid <-> windows.

Between patch embedding and output, tokens are kept in **window-major order**, as a tensor
``(B, windows, tokens, C)``. A window is one mask unit: 32x32 pixels, 8x8 tokens after the patch
embedding. The windows follow each other row by row.

Inside a window the order is nested: first the four quarters of the window, inside each quarter
its four quarters, and so on (the Z-order curve). Any four neighbours ``4k .. 4k + 3`` are
therefore one 2x2 patch of the map. Query pooling is a maximum over such four, and what it leaves
is again a window in nested order, one level less deep: 8x8, 4x4, 2x2 and finally 1x1 tokens, one
size for each stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MASK_UNIT = 8
"""Side of a window in tokens of the first stage."""

WINDOW_LEVELS = MASK_UNIT.bit_length() - 1
"""How often a full window can be halved, which is how often queries can be pooled."""


def to_windows(x: torch.Tensor) -> torch.Tensor:
    """Bring a map of the first stage's resolution into window-major order.

    Args:
        x: A map of shape ``(B, C, H, W)``; H and W are multiples of 8.

    Returns:
        The tokens, of shape ``(B, H / 8 * W / 8, 64, C)``.
    """
    batch, channels, height, width = x.shape
    halves = (2,) * WINDOW_LEVELS
    x = x.reshape(batch, channels, height // MASK_UNIT, *halves, width // MASK_UNIT, *halves)
    rows = range(2, 3 + WINDOW_LEVELS)
    columns = range(3 + WINDOW_LEVELS, 4 + 2 * WINDOW_LEVELS)
    nested = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return x.permute(0, *nested, 1).reshape(batch, -1, MASK_UNIT**2, channels)


def window_side(tokens: int) -> int:
    """Return the side of a window of so many tokens, a power of 4."""
    return 2 ** ((int(tokens).bit_length() - 1) // 2)


def to_image(x: torch.Tensor, window_grid: tuple[int, int]) -> torch.Tensor:
    """Restore image order; the inverse of :func:`to_windows`, for any stage.

    Args:
        x: Tokens of shape ``(B, windows, tokens, C)``, where ``tokens`` is 64, 16, 4 or 1.
        window_grid: Rows and columns of windows.

    Returns:
        A map of shape ``(B, C, rows * side, columns * side)``, where ``side`` is the square root of
        ``tokens``; in memory its channels come last, as those of tokens do.
    """
    batch, _, tokens, channels = x.shape
    rows, columns = window_grid
    side = window_side(tokens)
    levels = side.bit_length() - 1
    x = x.reshape(batch, rows, columns, *(2,) * (2 * levels), channels)
    vertical = range(1, 2 * levels + 3, 2)
    horizontal = range(2, 2 * levels + 3, 2)
    x = x.permute(0, *vertical, *horizontal, 2 * levels + 3)
    return x.reshape(batch, rows * side, columns * side, channels).permute(0, 3, 1, 2)


def coordinates(
    window_grid: tuple[int, int], tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where on the map each token is.

    Args:
        window_grid: Rows and columns of windows.
        tokens: Tokens of each window: 64, 16, 4 or 1.
        device: Where the result is needed.

    Returns:
        The rows and the columns, integers of shape ``(windows * tokens,)``, in window-major order.
    """
    numbers = torch.arange(window_grid[0] * window_grid[1] * tokens, device=device)
    image = to_image(numbers.reshape(1, -1, tokens, 1), window_grid)
    places = image.flatten().argsort()
    return places // image.shape[3], places % image.shape[3]


def pool_queries(x: torch.Tensor) -> torch.Tensor:
    """Max-pool every 2x2 patch of tokens (Hiera, section 3.1).

    Args:
        x: Tokens of shape ``(..., tokens, C)`` in nested order.

    Returns:
        The pooled tokens, of shape ``(..., tokens / 4, C)``.
    """
    learns = torch.is_grad_enabled() and x.requires_grad
    if learns and x.device.type == 'cpu' and not torch.jit.is_tracing():
        # The same maximum, of which torch finds the gradient on a CPU in a third of the time.
        columns = x.reshape(-1, x.shape[-2], 1, x.shape[-1]).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(columns, kernel_size=(4, 1)).permute(0, 2, 3, 1)
        return pooled.reshape(*x.shape[:-2], -1, x.shape[-1])
    return x.unflatten(-2, (-1, 4)).amax(dim=-2)


def mean_pool(x: torch.Tensor) -> torch.Tensor:
    """Average every 2x2 patch of tokens; shapes as in :func:`pool_queries`."""
    return x.unflatten(-2, (-1, 4)).mean(dim=-2)


def join_windows(x: torch.Tensor, window_grid: tuple[int, int], side: int) -> torch.Tensor:
    """Join squares of ``side`` x ``side`` windows into larger ones.

    Where ``side`` does not divide the grid, windows of zeros complete the last row and column, as
    SAM 2 pads the map before it attends.

    Args:
        x: Tokens of shape ``(B, windows, tokens, C)``.
        window_grid: Rows and columns of windows.
        side: Rows and columns of windows to join.

    Returns:
        The larger windows, of shape ``(B * larger windows, side * side * tokens, C)``. Inside one
        of them the tokens of each original window stay together.
    """
    batch, _, tokens, channels = x.shape
    rows, columns = window_grid
    # Nothing happens inside a window, so each one is moved as a single piece of memory.
    x = x.reshape(batch, rows, columns, tokens * channels)
    x = F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return x.reshape(-1, side * side * tokens, channels)


def split_windows(x: torch.Tensor, window_grid: tuple[int, int], side: int) -> torch.Tensor:
    """Undo :func:`join_windows`, whatever became of the number of tokens and channels.

    Args:
        x: Joined windows of shape ``(B * larger windows, side * side * tokens, C)``.
        window_grid: Rows and columns of windows that were joined.
        side: Rows and columns that were joined.

    Returns:
        Tokens of shape ``(B, windows, tokens, C)``, those of completing windows left out.
    """
    rows, columns = window_grid
    channels = x.shape[-1]
    window = x.shape[1] // side**2 * channels
    x = x.reshape(-1, -(-rows // side), -(-columns // side), side, side, window)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :rows, :columns].reshape(x.shape[0], rows * columns, -1, channels)
