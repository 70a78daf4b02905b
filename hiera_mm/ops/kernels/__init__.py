"""The functions of mmcv's compiled module ``mmcv._ext``, served by torch and torchvision.

mmcv's Python wrappers allocate the results and hand them to ``_ext`` to be filled in place, so
most functions here take output tensors, write to them and return nothing. Names, order of the
arguments and keywords are those of mmcv's bindings; where ``**settings`` stands for the numbers at
the end, they are taken by keyword alone, which is how mmcv gives them. All run on CPU and CUDA, in
float32 and float64; half-precision tensors are computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from . import boxes, deformable, focal, maps, roi  # noqa: F401  each adds its kernels
from .common import KERNELS

__all__ = ['KERNELS']
