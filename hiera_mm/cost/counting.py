"""Count the multiply-adds of what runs, and say which part of a model they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from .formulas import (
    has_formula,
    is_fused_attention,
    is_product_of_batches,
    is_sampling,
    multiply_adds,
)
from .parts import REST, Parts

_NETWORK, _RESULTS = 'forward', 'predict'
_ATTENTION = ('Attention', 'MSA')


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of every operation that runs while it is active.

    Args:
        parts: The parts of the model that will run.

    Attributes:
        total: Multiply-adds of each part that has any, in the order of their first use.
        attention: How many of them are the two products inside attention: queries by keys, and
            weights by values.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.total: Counter[str] = Counter()
        self.attention: Counter[str] = Counter()
        self._parts = parts
        # The modules that are inside each other at work, and whether as networks.
        self._running: list[tuple[nn.Module | None, bool]] = [(None, False)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        if not has_formula(func):
            # In inference mode operators arrive whole, which are otherwise made of others.
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        out = func(*args, **kwargs)
        module, is_network = self._running[-1]
        count = multiply_adds(func, args, kwargs, out)
        if count and (is_network or not is_sampling(func)):
            part = REST if module is None else self._parts.owners[module]
            self.total[part] += count
            kind = type(module).__name__
            if is_fused_attention(func) or (
                is_product_of_batches(func, args) and any(word in kind for word in _ATTENTION)
            ):
                self.attention[part] += count
        return out

    def enter(self, module: nn.Module, *, is_network: bool = True) -> None:
        """Count what follows for the part of a module, if it is one of the model's.

        Args:
            module: The module.
            is_network: Whether its forward pass follows, not what is made of its outputs: there,
                sampling is a part of drawing masks onto the image, and does not count.
        """
        # A module made on the way, which the model does not have, works for the one around it.
        known = module in self._parts.owners
        self._running.append((module if known else self._running[-1][0], is_network))

    def leave(self) -> None:
        """End what the last `enter` began."""
        self._running.pop()


@contextmanager
def counting(model: nn.Module) -> Iterator[MultiplyAdds]:
    """Count the multiply-adds of whatever a model does in this context.

    Args:
        model: The model; it is as before afterwards.

    Yields:
        What is counted.
    """
    parts = Parts(model)
    counts = MultiplyAdds(parts)
    handles = [
        register_module_forward_pre_hook(lambda module, _: counts.enter(module)),
        register_module_forward_hook(lambda *_: counts.leave(), always_call=True),
    ]
    # Some models call a head's `predict` and it its own `forward`, past the hooks of torch.
    wrapped = [
        (root, name)
        for root in set(parts.roots)
        for name in (_NETWORK, _RESULTS)
        if hasattr(root, name)
    ]
    for root, name in wrapped:
        setattr(root, name, _as_part(root, name, counts))
    # This path would hide whole encoder layers in one operator.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counts:
            yield counts
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()
        for root, name in wrapped:
            delattr(root, name)


def _as_part(module: nn.Module, name: str, counts: MultiplyAdds) -> Callable[..., Any]:
    method = getattr(module, name)

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        counts.enter(module, is_network=name == _NETWORK)
        try:
            return method(*args, **kwargs)
        finally:
            counts.leave()

    return run
