"""`torch.compile` where it pays: the blocks, and not the toolboxes' code around them."""

from __future__ import annotations

import torch
from torch import nn

from ..backbone import Hiera
from ..errors import ConfigError

VERSIONS = 64
"""Of a block's code that may be kept: kinds of blocks, in training and in evaluation."""


def compile_hiera(model: nn.Module) -> None:
    """Compile the blocks of each Hiera in a model, in place; names of parameters stay.

    Block by block, because blocks of one kind then share what is compiled, so that the wait does
    not grow with depth; and with the number of windows left open, because images of detectors
    differ in size. A whole Hiera would be compiled anew, for minutes, when the size first changes.
    Heads and losses are left out: they work on lists of boxes, whose lengths always change.

    Args:
        model: The model.

    Raises:
        ConfigError: If there is no Hiera in it.
    """
    backbones = [module for module in model.modules() if isinstance(module, Hiera)]
    if not backbones:
        raise ConfigError(
            '--compile compiles the Hiera in a model, and this model has none. For another '
            'backbone, set compile=True in the config, which compiles the whole training step.'
        )
    # Beyond torch's own limit of 8, further kinds of blocks would quietly not be compiled.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VERSIONS)
    for backbone in backbones:
        for block in backbone.blocks:
            block.compile(dynamic=True)
