"""What a run needs of the machine: processes, devices, and folders to write to."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import nn

from ..errors import ConfigError, UserError
from .config import shards, type_name, walk, warn

_SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')  # the last as a class
_CPU_FACTS = Path('/proc/cpuinfo')


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
        warn(f'{replaced} synchronised norms became plain ones: without GPUs they cannot run.')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')


def replace_sync_norms(model: Any) -> int:
    """Replace norms that need a GPU by those that do not, in place; return how many there were.

    Args:
        model: The config of a model.
    """
    norms = [node for node in walk(model) if type_name(node) in _SYNC_NORMS]
    for norm in norms:
        norm['type'] = 'BN'
    return len(norms)


def check_device(name: str) -> str:
    """Make sure that time and memory can be measured on a device; return its kind.

    Args:
        name: As torch names devices.

    Returns:
        ``'cpu'`` or ``'cuda'``.

    Raises:
        UserError: If there is no such device, or it is of another kind.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UserError(f'there is no device {name!r}; use cpu or cuda') from error
    if kind == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch finds no CUDA device here; use the device cpu')
    if kind not in ('cpu', 'cuda'):
        raise UserError(f'time and memory can be measured on cpu and cuda, not on {kind}')
    return kind


def processor(name: str) -> str:
    """Return the name of a GPU, or of the CPU.

    Args:
        name: Of the device, as torch names devices.
    """
    device = torch.device(name)
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    if _CPU_FACTS.exists():
        for line in _CPU_FACTS.read_text(encoding='utf-8', errors='replace').splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name':
                return value.strip()
    return platform.processor() or platform.machine()


def describe_device(name: str, threads: int | None = None) -> str:
    """Say in a few words what a device is, and on how many threads torch works on a CPU.

    Args:
        name: As torch names devices.
        threads: How many; None for as many as it is set to.
    """
    if torch.device(name).type == 'cuda':
        return processor(name)
    threads = torch.get_num_threads() if threads is None else threads
    return f'{threads} {"thread" if threads == 1 else "threads"} of {processor(name)}'


def to_device(model: nn.Module, name: str | None) -> nn.Module:
    """Move a model, and return it.

    Args:
        model: The model.
        name: As torch names devices; ``None`` for a GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    name = name or get_device()
    try:
        return model.to(name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'--device {name}: {str(error).splitlines()[0]}') from error


def make_folder(folder: str | Path) -> Path:
    """Make a folder if need be, and make sure that files can be written into it.

    Raises:
        ConfigError: If it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f'Cannot write to the folder {folder.absolute()}: {error.strerror}.'
        ) from error
    return folder
