"""The devices on which time and memory can be measured."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ..errors import UserError

_CPU_FACTS = Path('/proc/cpuinfo')


def check_device(name: str) -> str:
    """Make sure that a device is there and can be measured.

    Args:
        name: As torch names devices.

    Returns:
        Its kind, ``'cpu'`` or ``'cuda'``.

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
