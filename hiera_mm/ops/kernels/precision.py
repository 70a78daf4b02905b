"""One rule for the precision in which the kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one dtype, float32 or wider.

    torchvision's operators want all their inputs in one dtype and mostly have no bfloat16
    version, while automatic mixed precision hands over a mix.

    Args:
        tensors: Tensors of any dtype.

    Returns:
        The same tensors in float64 if any of them is, else in float32.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
