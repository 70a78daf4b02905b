"""Run a model without doing its heavy work: what is counted depends on shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .formulas import has_formula


class WithoutProducts(TorchDispatchMode):
    """While active, what has a formula returns zeros of the right shape instead of its result.

    Matrix products, convolutions and attention are most of the time of a pass, and neither
    multiply-adds nor activations depend on their values. What follows them sees predictions that
    are all the same, as of an untrained model, and the same on every machine: boxes are anchors.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, or only find out the shape of its result."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or not has_formula(func) or func._schema.is_mutable:
            return func(*args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device
        try:
            shapes = tree_map_only(Tensor, lambda t: t.to('meta'), (args, kwargs))
            out = func(*shapes[0], **shapes[1])
        except NotImplementedError:  # the shape can only be found by working
            return func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: _zeros(t, device), out)


def _zeros(like: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).zero_()
