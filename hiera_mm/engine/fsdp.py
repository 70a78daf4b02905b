"""What a config names for training in shards (FSDP), registered without importing strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import nn

from ..network.block import Block

if TYPE_CHECKING:
    from .fsdp_strategy import HieraFSDPStrategy


@FUNCTIONS.register_module()
def wrap_hiera_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Decide what is sharded, gathered and freed as one: each Hiera block, and the rest together.

    An ``auto_wrap_policy`` of torch's FSDP, by name in ``strategy.model_wrapper``.

    Args:
        module: A module of the model.
        recurse: Whether the question is if there may be such parts further inside.
        nonwrapped_numel: Number of the module's parameters that are in no part yet.

    Returns:
        The answer.
    """
    return recurse or isinstance(module, Block)


@STRATEGIES.register_module('HieraFSDPStrategy')
def build_strategy(**options: Any) -> HieraFSDPStrategy:
    """Import and build :class:`~.fsdp_strategy.HieraFSDPStrategy` when a runner asks for it."""
    from .fsdp_strategy import HieraFSDPStrategy

    return HieraFSDPStrategy(**options)
