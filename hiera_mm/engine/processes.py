"""Several processes on machines without GPUs, which mmengine's own set-up does not foresee."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from ..errors import ConfigError
from .config import walk
from .options import shards

_SYNC_NORMS = {'SyncBN': 'BN', 'MMSyncBN': 'BN'}


def prepare_processes(cfg: Config) -> None:
    """Check that processes were started as ``cfg.launcher`` says; on CPU, join them with gloo.

    mmengine gives every process a GPU. Without one, the process group is opened here, which
    mmengine then uses, and the config is told to leave out what only GPUs have.

    Args:
        cfg: The config; changed in place on CPU.

    Raises:
        ConfigError: If the processes were not started by torchrun, are more than the GPUs, or if
            the launcher needs GPUs and there are none; if a model is to be sharded over one.
    """
    if cfg.launcher == 'none':
        if shards(cfg):
            raise ConfigError(
                'FSDP shards a model over several processes. Start them with tools/dist_train.sh '
                'CONFIG GPUS, or remove runner_type and strategy (or --fsdp).'
            )
        return
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ConfigError(
            '--launcher pytorch is for processes that torchrun starts. Use tools/dist_train.sh or '
            'tools/dist_test.sh.'
        )
    device = get_device()
    if device == 'cuda' and cfg.launcher == 'pytorch':
        local_rank, gpus = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', local_rank + 1))
        if processes > gpus:
            raise ConfigError(f'{processes} processes were started, and there are {gpus} GPUs.')
    if device != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise ConfigError(f'--launcher {cfg.launcher} needs GPUs, and torch finds none here.')
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    wrapper = {'broadcast_buffers': False, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}
    wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = wrapper
    replaced = replace_sync_norms(cfg.model)
    if replaced:
        print_log(
            f'{replaced} synchronised norms became plain ones: without GPUs they cannot run.',
            logger='current',
            level=logging.WARNING,
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')


def replace_sync_norms(model: Any) -> int:
    """Replace norms that need a GPU by those that do not, in place; return how many there were.

    Args:
        model: The config of a model.
    """
    norms = [node for node in walk(model) if node.get('type') in _SYNC_NORMS]
    for norm in norms:
        norm['type'] = _SYNC_NORMS[norm['type']]
    return len(norms)
