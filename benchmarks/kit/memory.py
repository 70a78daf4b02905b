"""The memory that a pass needs, beside weights and images."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hiera_mm.errors import UserError

CLEAR_PEAK = Path('/proc/self/clear_refs')
MIB = 2**20
_MMAP_THRESHOLD = -3  # what glibc's mallopt calls it
_LARGE = 2**17  # bytes


def check_memory(device: str) -> None:
    """Raise a UserError if memory cannot be measured on a device, which is there."""
    if torch.device(device).type == 'cpu' and not CLEAR_PEAK.exists():
        raise UserError('memory on a CPU can be measured on Linux only')


def in_new_process(work: Callable[..., Any], *args: object) -> Any:
    """Return what a function returns in a process that does nothing else.

    Elsewhere, freed memory that the process still holds is used again and counts for nothing.
    """
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(work, *args).result()


def memory_of_pass(run: Callable[[], object], device: str) -> int:
    """Return the bytes that a pass needs at its peak, beside what an earlier one left behind.

    On a CPU, only a new process gives the right answer.
    """
    on_gpu = torch.device(device).type == 'cuda'
    if not on_gpu:
        _give_pages_back()
    run()  # what libraries load and compilers make is no part of the pass
    release_unused(device)
    if on_gpu:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # Linux forgets the peak so far when asked to, and counts from the present use.
    before = _status('VmRSS')
    CLEAR_PEAK.write_text('5')
    run()
    return _status('VmHWM') - before


def release_unused(device: str) -> None:
    """Give back what is free but still held."""
    gc.collect()
    if torch.device(device).type == 'cuda':
        torch.cuda.empty_cache()
        return
    with suppress(AttributeError, OSError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _give_pages_back() -> None:
    """Let every large tensor have pages of its own, which it gives back when it dies.

    The C library otherwise keeps what was freed for later, more or less of it as it happens: the
    peak of the same pass then differs by a fifth from one process to the next.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def _status(key: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {key}')
