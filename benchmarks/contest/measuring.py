"""Ours and every other Hiera, timed in interleaved rounds."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.contest.contestants import (
    CONTESTANTS,
    OURS,
    SEED,
    Admission,
    Entrant,
    Extractor,
    Refused,
    chosen,
    first_line,
    relative_error,
    role_of,
)
from benchmarks.kit.ledger import Ledger
from benchmarks.kit.memory import check_memory, in_new_process, memory_of_pass, release_unused
from benchmarks.kit.timing import Times, ceiling, measure_rounds, on_threads, products
from hiera_mm.engine.commands import allow_compiled_versions
from hiera_mm.engine.launch import check_device, processor
from hiera_mm.errors import UserError, did_you_mean
from hiera_mm.trial.configs import Size

TRAINING_FACTOR = 3
"""A backward pass makes each product of the forward pass twice: for inputs, and for weights."""

VERSIONS = 64  # of the compiled code: sizes and contestants

Report = Callable[[str], None]
Pass = Callable[[], tuple[Tensor, ...]]
Row = dict[str, Any]
"""What was measured of a contestant, with the names of the CSV."""


def check(setting: Namespace) -> None:
    """Complete a setting, and refuse what cannot be measured before any work begins.

    Args:
        setting: The options of ``benchmarks/backbones.py``: `peers`, `batch`, `device`, `dtype`,
            `threads`, `rounds`, `warmups`, `train`, `compile`, `channels_last` and `no_memory`.
    """
    known = [name for name in CONTESTANTS if name != OURS]
    if setting.peers is None:
        setting.peers = [name for name in known if CONTESTANTS[name].installed]
    for name in setting.peers:
        if name not in known:
            raise UserError(
                f'there is nothing called {name!r} to compare with{did_you_mean(name, known)}; '
                f'known: {", ".join(known)}'
            )
        if not CONTESTANTS[name].installed:
            raise UserError(
                f'{name} needs the package {CONTESTANTS[name].package}, which is not installed'
            )
    check_device(setting.device)
    if not setting.no_memory:
        check_memory(setting.device)
    setting.threads = setting.threads or torch.get_num_threads()
    matrix = torch.rand(8, 8, device=setting.device)
    with warnings.catch_warnings(), precision(setting):
        warnings.simplefilter('ignore')  # that it is not supported: said below
        if (matrix @ matrix).dtype != getattr(torch, setting.dtype):
            raise UserError(
                f'torch {torch.__version__} cannot run networks in {setting.dtype} on '
                f'{setting.device}; use another dtype'
            )


def facts(setting: Namespace) -> dict[str, Any]:
    """Return what results depend on beside the setting: the machine and the versions."""
    packages = ('torch', *(CONTESTANTS[name].package for name in setting.peers))
    distributions = metadata.packages_distributions()
    names = dict.fromkeys(distributions[p][0] for p in packages if p in distributions)
    versions = {name: metadata.version(name) for name in names}
    return dict(processor=processor(setting.device), versions=versions)


def measure(
    archs: Sequence[str], sizes: Sequence[Size], setting: Namespace, ledger: Ledger, report: Report
) -> list[list[Row]]:
    """Measure all contestants at every architecture and size, but what the ledger holds already.

    The report is called with a line about what happens next. The rows of each architecture and
    size come together, ours first.
    """
    cells = {
        f'{arch} at {size[0]}x{size[1]}': (arch, size)
        for arch in dict.fromkeys(archs)
        for size in dict.fromkeys(sizes)
    }
    for number, (name, cell) in enumerate(cells.items(), 1):
        if name not in ledger.results:
            start = f'({number}/{len(cells)}) {name}: '
            with on_threads(setting.threads):
                rows = measure_cell(*cell, setting, lambda line, start=start: report(start + line))
            ledger.add(name, rows)
    return [ledger.results[name] for name in cells]


def measure_cell(arch: str, size: Size, setting: Namespace, report: Report) -> list[Row]:
    """Measure all contestants at one architecture and size.

    Those that give another answer than ours in float64 are refused before anything is timed.
    """
    rows: dict[str, Row] = {
        name: dict(
            date=datetime.date.today().isoformat(),
            arch=arch,
            height=size[0],
            width=size[1],
            contestant=name,
            role=role_of(peer),
        )
        for name, peer in chosen(arch, setting.peers).items()
    }
    if setting.compile:
        report('starting the compiler')
        torch.compiler.reset()  # else shapes that change from cell to cell would become dynamic
        small = torch.compile(nn.GELU())  # so that no contestant pays for the start
        small(torch.rand(8, device=setting.device, requires_grad=True)).sum().backward()
    with tempfile.TemporaryDirectory(prefix='compiled-') as folder:
        caches = {name: Path(folder) / name for name in rows} if setting.compile else {}
        _time(arch, size, setting, rows, caches, report)
        release_unused(setting.device)
        for name, row in rows.items():
            if 'seconds' in row and not setting.no_memory:
                report(f'memory of {name}')
                try:
                    with _compiler_cache(caches.get(name)):
                        row['memory_bytes'] = measure_memory(name, arch, size, setting)
                except (RuntimeError, MemoryError) as error:  # times are not lost for that
                    report(f'the memory of {name} is not known: {first_line(error)}')
    ours = rows[OURS]
    for row in rows.values():
        for ratio, value in (('time_ratio', 'seconds'), ('memory_ratio', 'memory_bytes')):
            if ours.get(value) and row.get(value):
                row[ratio] = ours[value] / row[value]
    return list(rows.values())


def _time(
    arch: str,
    size: Size,
    setting: Namespace,
    rows: dict[str, Row],
    caches: Mapping[str, Path],
    report: Report,
) -> None:
    """Time all that may be timed, and matrix products, and complete the rows.

    Nothing of the networks is left in memory afterwards.
    """
    entrants, image = _admit(arch, size, rows, report)
    images = torch.cat([image, torch.randn(setting.batch - 1, *image.shape[1:])])
    passes: dict[str, Pass] = {}
    for name, entrant in entrants.items():
        report(f'first pass of {name}')
        try:
            with _compiler_cache(caches.get(name)):
                one_pass = prepare(entrant.network, images, setting)
                start = time.perf_counter()
                features = one_pass()
                error = relative_error(features, entrant.expected)  # which waits for the device
                seconds = time.perf_counter() - start
        except Exception as failure:  # other projects' code, compilers, too little memory
            report(f'{name} is not timed: {first_line(failure)}')
            rows[name]['refusal'] = f'fails: {first_line(failure)}'
            continue
        passes[name] = one_pass
        rows[name] |= dict(
            flop=entrant.flop * setting.batch * (TRAINING_FACTOR if setting.train else 1),
            error=error,
            compile_seconds=seconds if setting.compile else None,
        )

    def say(number: int, name: str, seconds: float) -> None:
        if name in passes:  # products are over in no time
            report(f'round {number} of {setting.rounds}: {name}: {seconds:.3g} s')

    times = measure_rounds(
        {**passes, **products(setting.device, getattr(torch, setting.dtype))},
        setting.rounds,
        warmups=setting.warmups,
        device=setting.device,
        report=say,
    )
    fastest = ceiling(times, setting.device)
    for name in passes:
        rows[name] |= _speed(times[name], rows[name]['flop'])
    for row in rows.values():
        row['ceiling_flop_per_second'] = fastest


def _speed(times: Times, flop: int) -> Row:
    return dict(
        seconds=times.median,
        spread=times.spread,
        flop_per_second=flop / times.median,
        all_seconds=' '.join(f'{seconds:.6g}' for seconds in times.seconds),
    )


def _admit(
    arch: str, size: Size, rows: Mapping[str, Row], report: Report
) -> tuple[dict[str, Entrant], Tensor]:
    """Return those that may be timed, and the image; enter the refusals of the others."""
    report('building ours')
    admission = Admission(arch, size)
    entrants = {OURS: admission.ours}
    for name in rows:
        if name == OURS:
            continue
        report(f'comparing {name}')
        try:
            entrants[name] = admission.admit(CONTESTANTS[name])
            rows[name]['difference'] = entrants[name].difference
        except Refused as refused:
            report(f'{name} is not timed: {refused}')
            rows[name] |= dict(refusal=str(refused), difference=refused.difference)
    return entrants, admission.image


def prepare(network: nn.Module, images: Tensor, setting: Namespace) -> Pass:
    """Bring a network into the mode of the benchmark, and return a pass of it.

    A training step computes a loss of all features, the mean of their squares, and the gradients
    of all parameters, and clears them. No optimiser works: it would do the same for everyone.
    """
    layout = torch.channels_last if setting.channels_last else torch.preserve_format
    network.to(setting.device, memory_format=layout).train(setting.train)
    images = images.to(setting.device, memory_format=layout)
    run = network
    if setting.compile:
        allow_compiled_versions(VERSIONS)
        run = torch.compile(network)

    def infer() -> tuple[Tensor, ...]:
        with torch.no_grad(), precision(setting):
            return run(images)

    def train() -> tuple[Tensor, ...]:
        with precision(setting):
            features = run(images)
        sum(x.float().square().mean() for x in features).backward()
        network.zero_grad()
        return features

    return train if setting.train else infer


def precision(setting: Namespace) -> torch.autocast:
    """Return the context in which networks run in the dtype, where that is safe."""
    kind, dtype = torch.device(setting.device).type, getattr(torch, setting.dtype)
    return torch.autocast(kind, dtype, enabled=dtype != torch.float32)


def measure_memory(name: str, arch: str, size: Size, setting: Namespace) -> int:
    """Return the bytes that a pass needs at its peak, weights and images not counted."""
    if torch.device(setting.device).type == 'cuda':
        return _measure_memory(name, arch, size, setting)
    return in_new_process(_measure_memory, name, arch, size, setting)


def _measure_memory(name: str, arch: str, size: Size, setting: Namespace) -> int:
    # Neither time nor memory depends on the values of weights: these are its own.
    torch.manual_seed(SEED)
    with on_threads(setting.threads):
        network = Extractor(CONTESTANTS[name], arch, size)
        run = prepare(network, torch.randn(setting.batch, 3, *size), setting)
        return memory_of_pass(run, setting.device)


def _compiler_cache(folder: Path | None) -> AbstractContextManager[Any]:
    """Let torch.compile keep what it makes in a folder meanwhile, here and in new processes.

    Each contestant has a new one, so that what a compilation takes is what a first one takes.
    """
    if folder is None:
        return nullcontext()
    return mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder))
