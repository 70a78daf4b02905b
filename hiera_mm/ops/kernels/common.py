"""What all kernels share: where they are listed, and the precision in which they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor

Kernel = Callable[..., Any]

KERNELS: dict[str, Kernel] = {}
"""Every function of ``mmcv._ext`` that is served here, by its name there."""

OUTSIDE = -1e6
"""In pixels, a place where no image is."""


def kernel(function: Kernel) -> Kernel:
    """List a function among the `KERNELS`."""
    KERNELS[function.__name__] = function
    return function


@kernel
def get_compiler_version() -> str:
    """For mmcv's environment report: no compiler made these operators."""
    return f'none, operators served by torchvision {torchvision.__version__}'


@kernel
def get_compiling_cuda_version() -> str:
    """For the same report: the CUDA version of torch, on whose kernels the operators run."""
    return torch.version.cuda or 'not available'


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one dtype: float64 if any of them has it, else float32.

    torchvision's operators want all their inputs in one dtype and mostly have no bfloat16
    version, while automatic mixed precision hands over a mix.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
