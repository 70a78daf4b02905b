"""Count the multiply-adds of what runs, and say which part of a model they are of.

torch's own counter counts floating point operations, two to a multiply-add, and knows matrix
products, convolutions and the attention kernels of GPUs. `FORMULAS` adds what it lacks. Operators
without a formula (norms, activations, pooling, interpolation, RoIAlign, NMS) count nothing, as in
the papers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import prod
from typing import Any

import torch
import torchvision  # noqa: F401  (defines torch.ops.torchvision)
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from .parts import REST, Parts

aten = torch.ops.aten

_CORNERS = {0: 4, 1: 0, 2: 16}
"""Neighbours that a sample is mixed of, for grid_sample's bilinear, nearest and bicubic."""

_NETWORK, _RESULTS = 'forward', 'predict'
_FUSED_ATTENTION = ('_scaled_dot_product_', '_flash_attention_', '_efficient_attention_')
_ATTENTION_MODULES = ('Attention', 'MSA')


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _matrix_by_vector(matrix: Any, vector: Any, *, out_shape: Any) -> int:
    return 2 * prod(matrix)


def _grid_sample(source: Any, grid: Any, mode: int = 0, *_: Any, out_shape: Any) -> int:
    return 2 * _CORNERS[mode] * prod(out_shape)


def _deformable_convolution(
    source: Any, weight: Any, offset: Any, mask: Any, *rest: Any, out_shape: Any
) -> int:
    """Count sampling (bilinear, and a factor for each sample if modulated) and convolution."""
    batch, _, height, width = out_shape
    samples = batch * height * width * source[1] * prod(weight[2:])
    modulated = bool(rest[-1])
    return 2 * (samples * (_CORNERS[0] + modulated) + prod(out_shape) * prod(weight[1:]))


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mv: _matrix_by_vector,
    aten.grid_sampler_2d: _grid_sample,
    aten.cudnn_grid_sampler: _grid_sample,
    torch.ops.torchvision.deform_conv2d: _deformable_convolution,
}
"""Floating point operations from the shapes of what an operator takes and returns."""

_COUNTED = FORMULAS.keys() | flop_registry.keys()


class MultiplyAdds(FlopCounterMode):
    """torch's counter, with what it counts divided among the parts of a model.

    torch's own division goes by the modules that are called; the toolboxes call `predict` of their
    heads, which calls `forward` past the module.

    Args:
        parts: The parts of the model that will run.

    Attributes:
        total: Multiply-adds of each part that has any, in the order of their first use.
        attention: How many of them are the two products inside attention: queries by keys, and
            weights by values.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        self.flop_registry = {
            operator: self._noted(operator, formula)
            for operator, formula in self.flop_registry.items()
        }
        self.total: Counter[str] = Counter()
        self.attention: Counter[str] = Counter()
        self._parts = parts
        # The modules that are inside each other at work, and whether as networks.
        self._running: list[tuple[nn.Module | None, bool]] = [(None, False)]

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

    def _noted(self, operator: Any, formula: Callable[..., int]) -> Callable[..., int]:
        """Return a formula that also notes its result for the part that runs."""

        def count(*args: Any, **kwargs: Any) -> int:
            flops = formula(*args, **kwargs)
            module, is_network = self._running[-1]
            drawing = not is_network and FORMULAS.get(operator) is _grid_sample
            if flops and not drawing and module not in self._parts.resizers:
                part = REST if module is None else self._parts.owners[module]
                self.total[part] += flops // 2
                if _is_attention(operator, args, type(module).__name__):
                    self.attention[part] += flops // 2
            return flops

        return count


def _is_attention(operator: Any, args: tuple[Any, ...], module: str) -> bool:
    """Tell whether an operator is attention as a whole, or one of its two products."""
    if operator.__name__.startswith(_FUSED_ATTENTION):
        return True
    if operator not in (aten.bmm, aten.baddbmm):
        return False
    # A matrix that is the same for the whole batch is a weight.
    batches = all(factor.shape[0] == 1 or factor.stride(0) != 0 for factor in args[-2:])
    return batches and any(word in module for word in _ATTENTION_MODULES)


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
        packet = func.overloadpacket if isinstance(func, OpOverload) else None
        if packet not in _COUNTED or func._schema.is_mutable:
            return func(*args, **kwargs)
        device = next(value.device for value in args if isinstance(value, Tensor))
        try:
            shapes = tree_map_only(Tensor, lambda t: t.to('meta'), (args, kwargs))
            out = func(*shapes[0], **shapes[1])
        except NotImplementedError:  # the shape can only be found by working
            return func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: torch.zeros_like(t, device=device), out)
