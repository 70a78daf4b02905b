"""The multiply-adds of each operator, from the shapes of its tensors.

torch counts floating point operations, two to a multiply-add, and knows matrix products,
convolutions and the attention kernels of GPUs. What it lacks is added here. Operators without a
formula (norms, activations, pooling, interpolation, RoIAlign, NMS) count nothing, as in the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision  # noqa: F401  (defines torch.ops.torchvision)
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_CORNERS = {0: 4, 1: 0, 2: 16}
"""Neighbours that a sample is mixed of, for grid_sample's bilinear, nearest and bicubic."""

_FUSED_ATTENTION = ('_scaled_dot_product_', '_flash_attention_', '_efficient_attention_')


def multiply_adds(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """Return the multiply-adds of one call of an operator; 0 for one without a formula.

    Args:
        operator: An overload, such as ``torch.ops.aten.mm.default``.
        args: What it was called with.
        kwargs: What it was called with by name.
        out: What it returned.
    """
    packet = operator.overloadpacket
    if packet in _OWN:
        return _OWN[packet](*args, **kwargs, out=out)
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out) // 2
    return 0


def has_formula(operator: Any) -> bool:
    """Tell whether an operator's multiply-adds are known."""
    return operator.overloadpacket in _OWN or operator.overloadpacket in flop_registry


def is_fused_attention(operator: Any) -> bool:
    """Tell whether an operator is attention as a whole: both of its products and the softmax."""
    return operator.overloadpacket.__name__.startswith(_FUSED_ATTENTION)


def is_sampling(operator: Any) -> bool:
    """Tell whether an operator samples a map at places between its points."""
    return _OWN.get(operator.overloadpacket) is _grid_sample


def is_product_of_batches(operator: Any, args: Sequence[Any]) -> bool:
    """Tell whether an operator multiplies a batch of matrices by another one.

    A matrix that is the same for the whole batch, as a weight is, makes no batch.
    """
    if operator.overloadpacket not in (torch.ops.aten.bmm, torch.ops.aten.baddbmm):
        return False
    return all(factor.shape[0] == 1 or factor.stride(0) != 0 for factor in args[-2:])


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape) // 2


def _matrix_by_vector(matrix: Tensor, vector: Tensor, *, out: Tensor) -> int:
    return matrix.numel()


def _grid_sample(source: Tensor, grid: Tensor, mode: int = 0, *_: Any, out: Tensor) -> int:
    return _CORNERS[mode] * out.numel()


def _deformable_convolution(
    source: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, *rest: Any, out: Tensor
) -> int:
    """Count sampling (bilinear, and a factor for each sample if modulated) and convolution."""
    batch, _, *places = out.shape
    samples = batch * places[0] * places[1] * source.shape[1] * weight.shape[2] * weight.shape[3]
    modulated = bool(rest[-1])
    return samples * (_CORNERS[0] + modulated) + out.numel() * weight[0].numel()


_OWN: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mv: _matrix_by_vector,
    torch.ops.aten.grid_sampler_2d: _grid_sample,
    torch.ops.aten.cudnn_grid_sampler: _grid_sample,
    torch.ops.torchvision.deform_conv2d: _deformable_convolution,
}
