"""Inference on a CPU, a strip of mask units at a time.

Blocks with windows can work on a few rows of units after the other. On a CPU that is faster: what
lies between two operations is small, stays in the cache, and needs no new memory from the system.
On a GPU, where torch keeps freed memory itself, strips would only be more and smaller kernels; in
training everything has to be kept anyway.

The trunk asks :func:`apply_to` and calls :func:`run`; nothing else knows of strips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from .block import MLP_RATIO

if TYPE_CHECKING:
    from .trunk import HieraTrunk

STRIP_BYTES = 12 * 2**20
"""Aim for the largest tensor of a strip, the hidden layer of the MLP."""

COMPILED_STRIP_BYTES = 24 * 2**20
"""The same in a compiled network, where each strip takes time to compile. What is below 32 MB the
C library keeps, so that its pages are not asked of the system each time."""


def apply_to(trunk: HieraTrunk, x: torch.Tensor) -> bool:
    """Whether the images ``x`` are on a CPU and nothing is recorded, for gradients or in a trace.

    A network compiled for all sizes must not be cut as suits one of them.
    """
    if x.device.type != 'cpu' or trunk.training or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        from torch.fx.experimental import symbolic_shapes

        # Older versions of torch cannot tell.
        has_static_value = getattr(symbolic_shapes, 'has_static_value', None)
        return has_static_value is not None and all(map(has_static_value, x.shape))
    return not torch.jit.is_tracing()


def run(
    trunk: HieraTrunk,
    x: torch.Tensor,
    grid: tuple[int, int],
    memory_format: torch.memory_format,
) -> list[torch.Tensor]:
    """Do what the loop of :class:`HieraTrunk` does, strip by strip.

    Args:
        trunk: The network.
        x: Tokens after the patch embedding, ``(B, units, 64, C)``.
        grid: Rows and columns of mask units.
        memory_format: That of the maps.

    Returns:
        The map of each output, ``(B, C, H, W)``.
    """
    maps: list[torch.Tensor] = []
    windows = [block.attn.window for block in trunk.blocks]
    start = 0
    while start < len(windows):
        # Consecutive blocks of the same windows go through each strip together.
        window, end = windows[start], start + 1
        while end < len(windows) and windows[end] == window:
            end += 1
        tokens: list[torch.Tensor] = []
        parts: dict[int, list[torch.Tensor]] = {}
        for strip, strip_grid in cut(x, grid, window or grid[0]):
            for index in range(start, end):
                strip = trunk.blocks[index](strip, strip_grid)
                if index in trunk.stage_after:
                    part = trunk.output(index, strip, strip_grid)
                    # Turned here, a strip is still in the cache.
                    part = part.contiguous(memory_format=memory_format)
                    parts.setdefault(index, []).append(part)
            tokens.append(strip)
        x = join(tokens, dim=1)
        maps += [join(rows, dim=2) for rows in parts.values()]
        start = end
    return maps


def cut(
    x: torch.Tensor, grid: tuple[int, int], rows: int
) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
    """Cut tokens into strips of whole rows of mask units.

    Args:
        x: Tokens ``(B, units, tokens, C)``.
        grid: Rows and columns of units.
        rows: The rows of a strip are a multiple of this; the last strip may have fewer.

    Yields:
        Each strip, ``(B, rows * columns, tokens, C)``, and its rows and columns.
    """
    height, columns = grid
    aim = COMPILED_STRIP_BYTES if torch.compiler.is_compiling() else STRIP_BYTES
    row_bytes = x[:, :columns].numel() * x.element_size() * MLP_RATIO
    step = max(1, aim // (row_bytes * rows)) * rows
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield x[:, top * columns : bottom * columns], (bottom - top, columns)


def join(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    """Put strips together again; a single one is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
