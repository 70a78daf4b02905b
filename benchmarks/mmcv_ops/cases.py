"""What an operator is timed and checked on: inputs of one call, drawn from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Functions = Mapping[str, Callable[..., Any]]
"""Functions of ``mmcv._ext`` by name: ours, or the compiled ones."""

IMAGE = (800, 1344)
"""Height and width of the image that the full-size inputs are of."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a function of ``mmcv._ext``.

    Attributes:
        args: Positional ones.
        settings: Those with keywords.
        filled: Places in `args` of the tensors that the function fills.
        prepare: Called with all functions of one side and its copy of `args`, before the call.
    """

    args: tuple[Any, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    filled: tuple[int, ...] = ()
    prepare: Callable[[Functions, tuple[Any, ...]], None] | None = None


@dataclass(frozen=True)
class Case:
    """An operator on inputs of one size.

    Attributes:
        operator: Name of the function in ``mmcv._ext``.
        family: What it belongs to, such as ``'roi_align'`` with its forward and backward pass.
        inputs: The inputs in a few words.
        make: Makes the arguments.
        tolerance: How far two answers may be apart, as a share of the largest value; 0 for
            identical ones. Indices have to be identical anyway.
    """

    operator: str
    family: str
    inputs: str
    make: Callable[[Draw], Call]
    tolerance: float = 0.0


class Draw:
    """Random tensors on a device, the same on every device."""

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Draw from the normal distribution."""
        return torch.randn(shape, generator=self._generator).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw from 0 to 1."""
        return torch.rand(shape, generator=self._generator).to(self.device)

    def integers(self, end: int, *shape: int) -> Tensor:
        """Draw from 0 to below `end`."""
        return torch.randint(end, shape, generator=self._generator).to(self.device)

    def zeros(self, *shape: int) -> Tensor:
        """Make room for a result."""
        return torch.zeros(shape, device=self.device)

    def scores(self, count: int) -> Tensor:
        """Draw scores no two of which are equal: nobody says which of equal ones is first."""
        order = torch.randperm(count, generator=self._generator)
        return ((order + 1) / (count + 1)).to(self.device)

    def boxes(self, count: int, least: int = 32, most: int = 256) -> Tensor:
        """Draw boxes ``(N, 4)`` in an image of size `IMAGE`, about twenty around each object.

        The sides of the objects are from `least` to `most` pixels long.
        """
        objects = -(-count // 20)
        image = torch.tensor(IMAGE[::-1], device=self.device)
        centres, sides = self.uniform(objects, 2) * image, self.uniform(objects, 2)
        sides = least * (most / least) ** sides
        which = torch.arange(count, device=self.device) % objects
        centres = centres[which] + 0.2 * sides[which] * self.normal(count, 2)
        halves = sides[which] / 2 * torch.exp(0.2 * self.normal(count, 2))
        return torch.cat([(centres - halves).clamp(min=0), (centres + halves).minimum(image)], 1)


def named(sizes: tuple[int, ...]) -> str:
    """Return sizes as they are written, such as ``256x200x336``."""
    return 'x'.join(map(str, sizes))
