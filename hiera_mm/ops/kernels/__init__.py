"""The functions of mmcv's compiled module ``mmcv._ext``, served by torch and torchvision.

mmcv's Python wrappers allocate the results and hand them to ``_ext`` to be filled in place, so
most functions here take output tensors, write to them and return nothing. Names, order of the
arguments and keywords are those of mmcv's bindings. All run on CPU and CUDA, in float32 and
float64; half-precision tensors are computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import attention, boxes, carafe, deform, focal, info, masked_conv, nms, psamask, roi

_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    attention.ms_deform_attn_forward,
    attention.ms_deform_attn_backward,
    boxes.bbox_overlaps,
    carafe.carafe_forward,
    carafe.carafe_backward,
    carafe.carafe_naive_forward,
    carafe.carafe_naive_backward,
    deform.deform_conv_forward,
    deform.deform_conv_backward_input,
    deform.deform_conv_backward_parameters,
    deform.modulated_deform_conv_forward,
    deform.modulated_deform_conv_backward,
    focal.sigmoid_focal_loss_forward,
    focal.sigmoid_focal_loss_backward,
    focal.softmax_focal_loss_forward,
    focal.softmax_focal_loss_backward,
    info.get_compiler_version,
    info.get_compiling_cuda_version,
    masked_conv.masked_im2col_forward,
    masked_conv.masked_col2im_forward,
    nms.nms,
    nms.softnms,
    nms.nms_match,
    psamask.psamask_forward,
    psamask.psamask_backward,
    roi.roi_align_forward,
    roi.roi_align_backward,
    roi.roi_pool_forward,
    roi.roi_pool_backward,
)

KERNELS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _FUNCTIONS}
"""Every function of ``mmcv._ext`` that is served here, by its name there."""
