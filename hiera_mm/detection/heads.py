"""Detection heads with norms that mmdet's have no option for. Needs mmdet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from torch import nn

from . import norms  # noqa: F401  # registers LN2d


@MODELS.register_module()
class NormedRPNHead(RPNHead):
    """mmdet's RPN head with a norm after each hidden convolution, before its ReLU.

    Args:
        *args: As of ``RPNHead``.
        norm_cfg: The norm, for instance ``dict(type='LN2d')``; ``None`` for none.
        **kwargs: As of ``RPNHead``; ``num_convs`` counts the hidden convolutions.
    """

    def __init__(self, *args: Any, norm_cfg: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.norm_cfg = norm_cfg  # the parent's constructor makes the layers
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = [self.in_channels] + [self.feat_channels] * self.num_convs
        self.rpn_conv = nn.Sequential(
            *(
                # The parent applies a ReLU of its own, which would meet an in-place one.
                ConvModule(before, after, 3, padding=1, norm_cfg=self.norm_cfg, inplace=False)
                for before, after in pairwise(channels)
            )
        )
