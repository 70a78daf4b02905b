"""Maps are resized by two matrices, one for their rows and one for their columns.

That is what every interpolation is. Written so, its gradient is two products as well: the same on
every device and in every exporter, and deterministic, which the gradient of torch's bicubic
interpolation is not on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch


def cubic_matrix(size: int, out: int, antialias: bool, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix of bicubic interpolation along one side.

    Args:
        size: Entries of the side.
        out: Entries that it is to have.
        antialias: As PIL and ``interpolate(..., antialias=True)`` resize: the cubic of Keys with
            a = -0.5, widened where the side shrinks, instead of a = -0.75 at any scale.
        like: What is to be resized: the matrix is on its device, of its dtype or of float32 where
            that is less precise.

    Returns:
        ``(out, size)``; every row adds up to 1.
    """
    centres = (_numbers(0, out, like) + 0.5) * size / out - 0.5
    # The cubic reaches two entries to each side. Beyond the border the last entry is repeated
    # (a = -0.75) or nothing is there (a = -0.5).
    places = _numbers(-2, size + 2, like)
    distance = (places - centres[:, None]).abs()
    if antialias and size > out:
        distance = distance * out / size
    a = -0.5 if antialias else -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
    if antialias:
        inside = weights[:, 2:-2]
        return inside / inside.sum(dim=1, keepdim=True)
    if size == 1:
        return torch.ones_like(centres)[:, None]
    first, last = (part.sum(dim=1, keepdim=True) for part in (weights[:, :3], weights[:, -3:]))
    return torch.cat([first, weights[:, 3:-3], last], dim=1)


def linear_matrix(size: int, out: int, ratio: float, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix of linear interpolation along one side.

    Args:
        size: Entries of the side.
        out: Entries that it is to have.
        ratio: Old entries for each new one.
        like: What is to be resized: the matrix is on its device, of its dtype or of float32 where
            that is less precise.

    Returns:
        ``(out, size)``; every row adds up to 1.
    """
    new, old = _numbers(0, out, like)[:, None], _numbers(0, size, like)
    centres = ((new + 0.5) * ratio - 0.5).clamp(0, size - 1)
    return (1 - (centres - old).abs()).clamp(min=0)


def mean_matrix(size: int, out: int, ratio: float, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix that averages what each new entry covers; as :func:`linear_matrix`."""
    new, old = _numbers(0, out, like)[:, None], _numbers(0, size, like)
    covered = torch.minimum((new + 1) * ratio, old + 1) - torch.maximum(new * ratio, old)
    weights = covered.clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def resize(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Resize maps ``(B, C, h, w)`` by the matrices ``(H, h)`` and ``(W, w)``.

    Returns:
        ``(B, C, H, W)`` of the dtype of ``x``; in memory its channels come last.
    """
    tokens = x.permute(0, 2, 3, 1)
    tokens = multiply(rows, tokens.flatten(2)).unflatten(2, tokens.shape[2:])
    return multiply(columns, tokens).permute(0, 3, 1, 2).to(x.dtype)


def multiply(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return ``matrix @ x`` in the dtype of the matrix, whatever autocast says."""
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        return matrix @ x.to(matrix.dtype)


def _numbers(start: int, end: int, like: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.arange(start, end, dtype=dtype, device=like.device)
