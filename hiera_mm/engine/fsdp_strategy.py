"""Fully sharded data parallel training (FSDP), a Hiera block at a time."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

_SHARDED = ('state', 'param_groups')
"""What of an optimiser's state belongs to parameters."""


class HieraFSDPStrategy(FSDPStrategy):
    """mmengine's FSDP strategy with parts that suit Hiera, and its faults mended.

    Checkpoints hold the whole model under its usual names, so that one process can test or
    fine-tune from them. Where the gradient is clipped, its norm is that of all shards. Without a
    GPU the shards stay on the CPU.

    Args:
        model_wrapper: Options of ``MMFullyShardedDataParallel``, by default with
            ``auto_wrap_policy='wrap_hiera_blocks'``.
        state_dict_cfg: As for mmengine's strategy, by default ``'full'``.
        **kwargs: As for mmengine's strategy.
    """

    def __init__(
        self,
        *,
        model_wrapper: dict[str, Any] | None = None,
        state_dict_cfg: str | dict[str, Any] = 'full',
        **kwargs: Any,
    ) -> None:
        wrapper = {
            'type': 'MMFullyShardedDataParallel',
            'auto_wrap_policy': 'wrap_hiera_blocks',
            **(model_wrapper or {}),
        }
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu':
            self.model_wrapper.setdefault('device_id', torch.device('cpu'))
        return super()._wrap_model(model)

    def build_optim_wrapper(
        self, optim_wrapper: BaseOptimWrapper | dict, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """Build the optimiser; clipping by norm asks all processes for their part of it."""
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is torch.nn.utils.clip_grad_norm_:
            built.clip_func = lambda _, **options: model.clip_grad_norm_(**options)
        return built

    def optim_state_dict(self) -> dict[str, Any]:
        """Return the state of the whole optimiser, complete in the first process."""
        on_cpu = get_device() == 'cpu'
        state = self._gather_one_by_one() if on_cpu else super().optim_state_dict()
        # What belongs to no parameter: the scale of the loss, the rate that others multiply.
        return {**self.optim_wrapper.state_dict(), **state} if state else state

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the optimiser, each process its shards.

        Args:
            state_dict: Of the whole optimiser, as a checkpoint holds it.
        """
        shards = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model,
            self.optim_wrapper.optimizer,
            {key: state_dict[key] for key in _SHARDED},
        )
        self.optim_wrapper.load_state_dict({**state_dict, **shards})

    def _gather_one_by_one(self) -> dict[str, Any]:
        """Gather each kind of state alone, and copy it.

        torch gathers all kinds of a block through one buffer and relies on the way to the CPU to
        copy what it holds. On a CPU nothing is copied, and the last kind would stand for all.
        """
        optimizer = self.optim_wrapper.optimizer
        kinds = sorted({kind for state in optimizer.state.values() for kind in state})
        merged: dict[str, Any] = {}
        for kind in kinds:
            part = FullyShardedDataParallel.optim_state_dict(self.model, _OneKind(optimizer, kind))
            part = copy.deepcopy(part)
            for name, state in part.get('state', {}).items():
                merged.setdefault('state', {}).setdefault(name, {}).update(state)
            merged = {**part, **merged}
        return merged


class _OneKind:
    """An optimiser of which only one kind of state is seen."""

    def __init__(self, optimizer: torch.optim.Optimizer, kind: str) -> None:
        self._optimizer = optimizer
        self._kind = kind
        self.param_groups = optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        whole = self._optimizer.state_dict()
        state = {
            number: {self._kind: kinds[self._kind]}
            for number, kinds in whole['state'].items()
            if self._kind in kinds
        }
        return {**whole, 'state': state}
