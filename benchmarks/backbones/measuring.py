"""Backbones side by side: ours and every other Hiera, timed in interleaved rounds."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.backbones.admission import Admission, Entrant, Refused, first_line, relative_error
from benchmarks.backbones.contestants import CONTESTANTS, OURS, chosen
from benchmarks.backbones.passes import (
    TRAINING_FACTOR,
    Pass,
    compiler_cache,
    prepare,
    start_compiler,
)
from benchmarks.backbones.peaks import measure_memory
from benchmarks.backbones.results import Cell, Result
from benchmarks.backbones.setting import Setting
from benchmarks.kit.ceiling import ceiling, products
from benchmarks.kit.ledger import Ledger
from benchmarks.kit.memory import release_unused
from benchmarks.kit.rounds import Times, measure_rounds
from benchmarks.kit.threads import on_threads
from hiera_mm.cost.sizes import Size

Report = Callable[[str], None]


def measure(
    archs: Sequence[str],
    sizes: Sequence[Size],
    setting: Setting,
    ledger: Ledger,
    report: Report,
) -> list[Cell]:
    """Measure all contestants at every architecture and size.

    Args:
        archs: Names of architectures.
        sizes: Heights and widths of images.
        setting: How to measure.
        ledger: Keeps what is measured; what it holds already is not measured again.
        report: Called with a line about what happens next.

    Returns:
        The cells, sizes of an architecture together.
    """
    cells = [(arch, size) for arch in dict.fromkeys(archs) for size in dict.fromkeys(sizes)]
    for number, (arch, size) in enumerate(cells, 1):
        name = cell_name(arch, size)
        if name in ledger.results:
            continue
        start = f'({number}/{len(cells)}) {name}: '
        with on_threads(setting.threads):
            cell = measure_cell(arch, size, setting, lambda line, start=start: report(start + line))
        ledger.add(name, asdict(cell))
    return [Cell.from_record(ledger.results[cell_name(*cell)]) for cell in cells]


def cell_name(arch: str, size: Size) -> str:
    """Return what an architecture at a size is called."""
    return f'{arch} at {size[0]}x{size[1]}'


def measure_cell(arch: str, size: Size, setting: Setting, report: Report) -> Cell:
    """Measure all contestants at one architecture and size.

    Those that give another answer than ours in float64 are refused before anything is timed.

    Args:
        arch: Name of the architecture.
        size: Height and width of the images.
        setting: How to measure.
        report: Called with a line about what happens next.
    """
    results = {c.name: Result(c.name, c.role) for c in chosen(arch, setting.peers)}
    if setting.compiled:
        report('starting the compiler')
        torch.compiler.reset()  # else shapes that change from cell to cell would become dynamic
        start_compiler(setting.device)
    with tempfile.TemporaryDirectory(prefix='compiled-') as folder:
        caches = {name: Path(folder) / name for name in results} if setting.compiled else {}
        times = _time(arch, size, setting, results, caches, report)
        release_unused(setting.device)
        for name, result in results.items():
            if setting.memory and result.seconds:
                report(f'memory of {name}')
                with compiler_cache(caches.get(name)):
                    memory = _memory(name, arch, size, setting, report)
                results[name] = replace(result, memory=memory)
    today = datetime.date.today().isoformat()
    fastest = ceiling(times, setting.device)
    return Cell(arch, size, today, fastest, tuple(results.values()))


def _time(
    arch: str,
    size: Size,
    setting: Setting,
    results: dict[str, Result],
    caches: Mapping[str, Path],
    report: Report,
) -> dict[str, Times]:
    """Time all that may be timed and matrix products, and enter what was found in `results`.

    Nothing of the networks is left in memory afterwards.
    """
    entrants, image = _admit(arch, size, results, report)
    images = torch.cat([image, torch.randn(setting.batch - 1, *image.shape[1:])])
    passes: dict[str, Pass] = {}
    for name, entrant in entrants.items():
        report(f'first pass of {name}')
        try:
            with compiler_cache(caches.get(name)):
                passes[name], seconds, error = _first_pass(entrant, images, setting)
        except Exception as error:  # other projects' code, compilers, too little memory
            report(f'{name} is not timed: {first_line(error)}')
            results[name] = replace(results[name], refusal=f'fails: {first_line(error)}')
            continue
        results[name] = replace(
            results[name],
            flop=entrant.flop * setting.batch * (TRAINING_FACTOR if setting.train else 1),
            error=error,
            compile_seconds=seconds if setting.compiled else None,
        )
    works = {**passes, **products(setting.device, setting.torch_dtype)}
    times = measure_rounds(
        works,
        setting.rounds,
        warmups=setting.warmups,
        device=setting.device,
        report=_round_reporter(len(works), setting.rounds, report),
    )
    for name in passes:
        results[name] = replace(results[name], seconds=times[name].seconds)
    return times


def _memory(name: str, arch: str, size: Size, setting: Setting, report: Report) -> int | None:
    try:
        return measure_memory(name, arch, size, setting)
    except (RuntimeError, MemoryError) as error:  # too little of it; times are not lost for that
        report(f'the memory of {name} is not known: {first_line(error)}')
        return None


def _admit(
    arch: str, size: Size, results: dict[str, Result], report: Report
) -> tuple[dict[str, Entrant], Tensor]:
    """Return those that may be timed, and the image; enter the others in `results`."""
    report('building ours')
    admission = Admission(arch, size)
    entrants = {OURS: admission.ours}
    for name in results:
        if name == OURS:
            continue
        report(f'comparing {name}')
        try:
            entrants[name] = admission.admit(CONTESTANTS[name])
        except Refused as refused:
            report(f'{name} is not timed: {refused}')
            results[name] = replace(
                results[name], refusal=str(refused), difference=refused.difference
            )
        else:
            results[name] = replace(results[name], difference=entrants[name].difference)
    return entrants, admission.image


def _first_pass(entrant: Entrant, images: Tensor, setting: Setting) -> tuple[Pass, float, float]:
    """Return a pass, what the first one took, and the relative error of its features."""
    one_pass = prepare(entrant.network, images, setting)
    start = time.perf_counter()
    features = one_pass()
    error = relative_error(features, entrant.expected)  # which waits for the device
    return one_pass, time.perf_counter() - start, error


def _round_reporter(works: int, rounds: int, report: Report) -> Callable[[int, str, float], None]:
    """Return what reports a round when its last work is done."""
    done = 0

    def count(number: int, *_: object) -> None:
        nonlocal done
        done += 1
        if done % works == 0:
            report(f'round {number} of {rounds}')

    return count
