"""What a benchmark ran on: the processor, and the versions of the packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch

_CPU_FACTS = Path('/proc/cpuinfo')


def processor(device: str | torch.device) -> str:
    """Return the name of a GPU, or of the CPU."""
    device = torch.device(device)
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    if _CPU_FACTS.exists():
        for line in _CPU_FACTS.read_text(encoding='utf-8', errors='replace').splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name':
                return value.strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of what is installed, by the names of the distributions.

    Args:
        packages: Import names; those of nothing installed are left out.
    """
    distributions = metadata.packages_distributions()
    names = dict.fromkeys(distributions[p][0] for p in packages if p in distributions)
    return {name: metadata.version(name) for name in names}
