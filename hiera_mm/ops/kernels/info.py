"""What mmcv's environment report says about its operators."""

from __future__ import annotations

import torch
import torchvision


def get_compiler_version() -> str:
    """Say that no compiler made these operators, and what serves them."""
    return f'none, operators served by torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """Give the CUDA version of torch, since the operators run on torch's kernels."""
    return torch.version.cuda or 'not available'
