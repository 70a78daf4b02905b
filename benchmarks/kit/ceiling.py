"""How fast a machine multiplies matrices: what no network can exceed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from benchmarks.kit.rounds import Times

SIDES = {'cpu': (1024, 1536, 2048), 'cuda': (4096, 6144, 8192)}
"""Sides of the square matrices, by kind of device: large enough to be fast, and no larger."""


def products(device: str | torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return matrix products of several sizes, to be timed beside the networks.

    Args:
        device: Where to multiply.
        dtype: Of the matrices.

    Returns:
        The works by their names.
    """
    works = {}
    for side in SIDES[torch.device(device).type]:
        # Ordinary numbers: of some, such as zeros, a processor makes less work.
        left, right = torch.randn(2, side, side, device=device).to(dtype)
        out = torch.empty_like(left)
        works[_name(side)] = _product(left, right, out)
    return works


def ceiling(times: Mapping[str, Times], device: str | torch.device) -> float:
    """Return the floating point operations a second of the fastest product, by medians.

    The networks are judged by their medians. A product is over in a few milliseconds, and the best
    of many is a moment of the machine in which no network could be run.

    Args:
        times: What was measured of the works that :func:`products` returned, among others.
        device: Where it was.
    """
    sides = SIDES[torch.device(device).type]
    return max(2 * side**3 / times[_name(side)].median for side in sides)


def _product(
    left: torch.Tensor, right: torch.Tensor, out: torch.Tensor
) -> Callable[[], torch.Tensor]:
    return lambda: torch.mm(left, right, out=out)


def _name(side: int) -> str:
    return f'product of {side}x{side}'
