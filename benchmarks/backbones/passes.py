"""A pass of a contestant, ready to be repeated: one inference, or one training step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.backbones.setting import Setting

TRAINING_FACTOR = 3
"""A backward pass makes each product of the forward pass twice: for inputs, and for weights."""

VERSIONS = 64
_CACHE = 'TORCHINDUCTOR_CACHE_DIR'

Pass = Callable[[], tuple[Tensor, ...]]


def prepare(network: nn.Module, images: Tensor, setting: Setting) -> Pass:
    """Bring a network into the mode of the benchmark, and return a pass of it.

    A training step computes a loss of all features, the mean of their squares, and the gradients
    of all parameters, and clears them. No optimiser works: it would do the same for everyone.

    Args:
        network: The network, changed in place.
        images: What it gets, in float32.
        setting: The mode.

    Returns:
        The pass; it returns the features.
    """
    layout = torch.channels_last if setting.channels_last else torch.preserve_format
    network.to(setting.device, memory_format=layout).train(setting.train)
    images = images.to(setting.device, memory_format=layout)
    run = network
    if setting.compiled:
        # Beyond torch's own limit of 8, further contestants would quietly not be compiled.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VERSIONS)
        run = torch.compile(network)

    def infer() -> tuple[Tensor, ...]:
        with torch.no_grad(), setting.precision():
            return run(images)

    def train() -> tuple[Tensor, ...]:
        with setting.precision():
            features = run(images)
        sum(x.float().square().mean() for x in features).backward()
        network.zero_grad()
        return features

    return train if setting.train else infer


def start_compiler(device: str) -> None:
    """Compile something small, so that no contestant pays for the start of the compiler."""
    torch.compile(nn.GELU())(torch.rand(8, device=device, requires_grad=True)).sum().backward()


@contextmanager
def compiler_cache(folder: Path | None) -> Iterator[None]:
    """Let torch.compile keep what it makes in a folder meanwhile, here and in new processes.

    Args:
        folder: One for each contestant, new, so that what a compilation takes is what a first one
            takes. None to change nothing.
    """
    if folder is None:
        yield
        return
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE]
        else:
            os.environ[_CACHE] = before
