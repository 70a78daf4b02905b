"""The two halves of a convolution at chosen positions: gather patches, put results back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``col`` with the patches around the chosen positions.

    Args:
        im: Features ``(1, C, H, W)``.
        mask_h_idx: Rows of the positions ``(P,)``, int64, in the padded convolution's output.
        mask_w_idx: Columns of the positions ``(P,)``, int64.
        col: Result ``(C * kernel_h * kernel_w, P)``.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        pad_h: Vertical zero padding.
        pad_w: Horizontal zero padding.
    """
    # A kernel's size more at the far ends, so that any position has a whole patch.
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write the column of each position, ``col`` ``(C, P)``, to it in ``im`` ``(1, C, H, W)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col
