"""Layer-wise learning-rate decay: early blocks, which know most already, learn most slowly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..backbone import Hiera
from ..errors import ConfigError
from ..weights.families import OUTPUTS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class HieraOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives each block of a Hiera its own learning rate, and spares what should not decay.

    Of a backbone with ``depth`` blocks, block i of 1 to depth learns at ``lr * decay_rate **
    (depth + 1 - i)``, the patch and position embeddings at ``lr * decay_rate ** (depth + 1)``.
    Output norms and projections are new with every task and learn at ``lr``, as does everything
    outside the backbone. Biases, norms and position embeddings of the backbone, and any other
    parameter of it without a matrix (LayerScale), have no weight decay.

    All options of mmengine's constructor work beside it: its factors multiply these rates.

    Args:
        optim_wrapper_cfg: Config of the optimiser wrapper, with ``optimizer``.
        paramwise_cfg: ``decay_rate`` in (0, 1], by default 1: equal rates; and the options of
            mmengine's constructor.

    Raises:
        ConfigError: If ``decay_rate`` is impossible, or the optimiser config has no ``lr``.
    """

    def __init__(
        self,
        optim_wrapper_cfg: Mapping[str, Any],
        paramwise_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        # The parent's constructor looks at no parameter if there are no options at all.
        super().__init__(optim_wrapper_cfg, {'decay_rate': 1.0, **(paramwise_cfg or {})})
        rate = self.paramwise_cfg['decay_rate']
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.decay_rate must be a number above 0 and at most 1, '
                f'got {rate!r}'
            )
        if self.base_lr is None:
            raise ConfigError('optim_wrapper.optimizer needs lr, from which each block takes its')

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of a module and of those inside it, in groups of equal options.

        Args:
            params: The groups; extended in place.
            module: The module.
            prefix: Its name.
            is_dcn_module: Whether it is part of a deformable convolution; mmengine's own.
        """
        if prefix:  # the parent walks through the modules by calling this; the root comes last
            super().add_params(params, module, prefix, is_dcn_module)
            return
        logger = MMLogger.get_current_instance()
        logger.addFilter(_no_options)
        try:
            super().add_params(params, module, prefix, is_dcn_module)
        finally:
            logger.removeFilter(_no_options)
        rules = {
            id(parameter): rule
            for backbone in module.modules()
            if isinstance(backbone, Hiera)
            for parameter, rule in _rules(backbone, self.paramwise_cfg['decay_rate'])
        }
        merged: dict[tuple, dict[str, Any]] = {}
        for group in params:
            (parameter,) = group['params']
            scale, decays = rules.get(id(parameter), (1.0, True))
            group['lr'] = group.get('lr', self.base_lr) * scale
            if not decays:
                group['weight_decay'] = 0.0
            options = {key: value for key, value in group.items() if key != 'params'}
            key = tuple(sorted((name, repr(value)) for name, value in options.items()))
            merged.setdefault(key, {**options, 'params': []})['params'].append(parameter)
        params[:] = sorted(merged.values(), key=lambda group: group['lr'])
        print_log(_table(params, self.base_wd), logger='current')


def _rules(backbone: Hiera, rate: float) -> Iterator[tuple[nn.Parameter, tuple[float, bool]]]:
    """Yield each parameter of a backbone with the factor of its rate and whether it decays."""
    depth = len(backbone.blocks)
    for name, module in backbone.named_modules():
        if name.startswith('blocks.'):
            layer = int(name.split('.')[1]) + 1
        elif name.startswith(OUTPUTS):
            layer = depth + 1
        else:
            layer = 0
        # Not by the number of dimensions: shards of FSDP are flat.
        matrix = module.weight if isinstance(module, nn.Linear | nn.Conv2d) else None
        for parameter in module.parameters(recurse=False):
            yield parameter, (rate ** (depth + 1 - layer), parameter is matrix)


def _no_options(record: logging.LogRecord) -> bool:
    """Leave out the line that mmengine logs for each option of each parameter; a table follows."""
    return not record.getMessage().startswith('paramwise_options')


def _table(groups: list[dict[str, Any]], weight_decay: float | None) -> str:
    lines = ['learning rate  weight decay  tensors  parameters']
    for group in groups:
        decay = group.get('weight_decay', weight_decay)
        size = sum(parameter.numel() for parameter in group['params'])
        shown = '-' if decay is None else f'{decay:g}'
        lines.append(f'{group["lr"]:13.3e}  {shown:>12}  {len(group["params"]):7}  {size:10,}')
    return '\n'.join(lines)
