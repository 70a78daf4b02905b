"""LayerNorm over the channels of a feature map, which mmcv has no name for. Needs no mmdet."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Normalises each place of a feature map over its channels.

    In configs: ``norm_cfg=dict(type='LN2d')``, with an optional ``eps``. As a kind of
    ``nn.LayerNorm`` it is a norm to mmengine, whose ``norm_decay_mult`` covers it.

    Args:
        num_channels: Channels of the map.
        eps: Added to the variance.

    Examples:
        >>> LayerNorm2d(8)(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch of maps.

        Args:
            x: ``(B, num_channels, H, W)``.

        Returns:
            The same shape.
        """
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


# Other projects use this name for the same thing; whoever came first keeps it.
if 'LN2d' not in MODELS.module_dict:
    MODELS.register_module(name='LN2d', module=LayerNorm2d)
