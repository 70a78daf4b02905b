"""The doctor's report, one screen of plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hiera_mm
from hiera_mm.doctor.checks import Problem
from hiera_mm.doctor.facts import DISTRIBUTIONS, Facts

OPERATORS = {
    'compiled': 'compiled mmcv',
    'torchvision': 'torchvision, this mmcv has no compiled ones',
    'broken': 'none, they do not load',
    'missing': 'none',
}


def report(facts: Facts, problems: Sequence[Problem]) -> str:
    """Return the report as text."""
    rows = {
        'hiera_mm': f'{hiera_mm.__version__} ({Path(hiera_mm.__file__).parent})',
        'python': f'{facts.python} ({sys.executable})',
    }
    for name in DISTRIBUTIONS:
        installed = [f'{each} {facts.versions[each]}' for each in facts.installed(name)]
        rows[name] = ', '.join(installed) or 'not installed'
    rows |= {
        'stack': facts.stack,
        'operators': OPERATORS[facts.operators],
        'CUDA': _cuda(facts),
        'cores': str(facts.cores),
    }
    lines = [f'{name:<12} {value}' for name, value in rows.items()]
    for problem in problems:
        kind = 'NOTE' if problem.harmless else 'BROKEN'
        lines += ['', f'{kind}: {problem.what}', f'  cure: {problem.cure}']
    if all(problem.harmless for problem in problems):
        lines += ['', 'All is well.']
    return '\n'.join(lines)


def _cuda(facts: Facts) -> str:
    built = (
        f'torch built for CUDA {facts.torch_cuda}' if facts.torch_cuda else 'a CPU build of torch'
    )
    return f'{", ".join(facts.devices) or "no usable device"} ({built})'
