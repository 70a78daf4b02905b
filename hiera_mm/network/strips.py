"""Inference a strip of windows at a time.

What happens inside windows, and in an MLP, can be done for a few rows of windows after the
other. On a CPU that is faster, because what lies between two operations stays small: it remains
in the cache, and its memory is used again at once instead of being asked of the system anew,
page by page, for every operation. Without strips the time of a large image grows faster than
its pixels for this reason alone (benchmarks/performance.md has the figures). On a GPU, where torch
keeps freed memory itself, strips would only be more and smaller kernels; in training everything
has to be kept anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx.experimental.symbolic_shapes import has_static_value

STRIP_BYTES = 12 * 2**20
"""Aim for the largest tensor of a strip, the hidden layer of the MLP."""

COMPILED_STRIP_BYTES = 24 * 2**20
"""The same in a compiled network, where each strip takes time to compile. What is below 32 MB the
C library keeps, so that its pages are not asked of the system each time."""


def is_recorded() -> bool:
    """Whether what happens is recorded, for gradients or in a trace."""
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def strips(
    x: torch.Tensor, window_grid: tuple[int, int], rows: int, expansion: int, whole: bool
) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
    """Cut tokens into strips of whole rows of windows, where that helps.

    Args:
        x: Tokens of shape ``(B, windows, tokens, C)``.
        window_grid: Rows and columns of windows.
        rows: The rows of a strip are a multiple of this; the last strip may have fewer.
        expansion: Channels of the largest tensor that will be made of a strip, divided by C.
        whole: Do not cut in any case.

    Yields:
        Each strip, ``(B, rows * columns, tokens, C)``, and its rows and columns.
    """
    height, columns = window_grid
    aim = STRIP_BYTES
    if torch.compiler.is_compiling():
        aim = COMPILED_STRIP_BYTES
        # Compiled for all sizes, the network must not be cut as suits one of them.
        whole = whole or not all(has_static_value(number) for number in (*x.shape, *window_grid))
    if whole or is_recorded() or x.device.type != 'cpu':
        yield x, window_grid
        return
    row_bytes = x[:, :columns].numel() * x.element_size() * expansion
    step = max(1, aim // (row_bytes * rows)) * rows
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield x[:, top * columns : bottom * columns], (bottom - top, columns)


def join(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    """Put strips together again; a single one is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
