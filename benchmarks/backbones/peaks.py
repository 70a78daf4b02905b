"""The memory of a pass of a contestant, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.backbones.admission import SEED
from benchmarks.backbones.contestants import CONTESTANTS, Extractor
from benchmarks.backbones.passes import prepare
from benchmarks.backbones.setting import Setting
from benchmarks.kit.memory import give_pages_back, memory_of_pass
from benchmarks.kit.threads import on_threads
from hiera_mm.cost.sizes import Size


def measure_memory(name: str, arch: str, size: Size, setting: Setting) -> int:
    """Return the bytes that a pass needs at its peak, weights and images not counted.

    What a network keeps from one pass to the next counts. What ``torch.compile`` keeps does not,
    since it is the compiler's; then caches of the network do not count either.

    On a CPU a fresh process is what makes the peak that of one contestant alone.

    Args:
        name: Which contestant.
        arch: The architecture.
        size: Height and width of the images.
        setting: The mode.

    Raises:
        RuntimeError: If memory does not suffice.
    """
    if torch.device(setting.device).type == 'cuda':
        return _measure(name, arch, size, setting)
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_alone, name, arch, size, setting).result()


def _measure_alone(name: str, arch: str, size: Size, setting: Setting) -> int:
    give_pages_back()
    with on_threads(setting.threads):
        return _measure(name, arch, size, setting)


def _measure(name: str, arch: str, size: Size, setting: Setting) -> int:
    # Neither time nor memory depends on the values of weights: these are its own.
    torch.manual_seed(SEED)
    network = Extractor(CONTESTANTS[name], arch, size)
    run = prepare(network, torch.randn(setting.batch, 3, *size), setting)
    return memory_of_pass(run, setting.device, count_kept=not setting.compiled)
