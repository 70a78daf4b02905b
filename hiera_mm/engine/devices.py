"""The devices on which time and memory can be measured."""

from __future__ import annotations

import platform

import torch

from ..errors import UserError


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


def describe_device(name: str) -> str:
    """Say in a few words what a device is, and on how many threads torch works on a CPU.

    Args:
        name: As torch names devices.
    """
    device = torch.device(name)
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f'{threads} {"thread" if threads == 1 else "threads"} of {platform.machine()}'
