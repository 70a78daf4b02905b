"""Which configs can take Hiera? All of them are tried, and tables tell."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import queue
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.utils import ProgressBar

from benchmarks.kit.ledger import Ledger
from benchmarks.kit.tables import write_csv
from hiera_mm.cost.report import table
from hiera_mm.doctor import installed_versions
from hiera_mm.engine.commands import TRAIN_NEEDS
from hiera_mm.errors import ConfigError
from hiera_mm.swap.swapping import prepare, read
from hiera_mm.swap.ways import KEEPS_CHANNELS
from hiera_mm.trial.configs import configs_in, loads_masks, owners, shipped, with_absolute_files
from hiera_mm.trial.models import try_out

SWAPPED, REFUSED, UNUSABLE = 'swapped', 'refused', 'original fails'
LIMIT = 600  # seconds for one config
FAMILIES = ('family', 'configs', 'swapped', 'of these with the old channels', 'refused',
            'original fails here')  # fmt: skip
REASONS = ('configs', 'fate', 'reason', 'such as')
"""Columns of the tables."""

Result = dict[str, Any]


def run_survey(
    folder: Path | None, arch: str, work_dir: Path, workers: int, *, fresh: bool = False
) -> str:
    """Try to put Hiera into many configs.

    Each config is read, swapped, tried as by :func:`hiera_mm.swap.swap`, and written, which reads
    it again as a training does. Where that fails, the original is tried. Configs that are only for
    testing count as failing. Models that are the same are tried once. What was done is kept, so
    that the survey goes on where it was interrupted.

    Args:
        folder: A folder of configs; ``None`` for those that the installed toolboxes ship.
        arch: The Hiera.
        work_dir: Folder for the results: ``results.jsonl``, ``table.md``, and as CSV
            ``configs.csv``, ``families.csv`` and ``reasons.csv``.
        workers: Number of processes, of one thread each.
        fresh: Forget earlier results.

    Returns:
        The table by family, in Markdown, with the reasons below it.

    Raises:
        ConfigError: If there are no configs, or the folder cannot be written to.
    """
    files = _configs(folder)
    setting = dict(arch=arch, folder=str(folder), versions=installed_versions())
    ledger = Ledger(work_dir / 'results.jsonl', setting, fresh=fresh)
    # One process takes a whole family: there most models are alike.
    groups: dict[str, list[str]] = defaultdict(list)
    for name in files:
        if name not in ledger.results:
            groups[name.rpartition('/')[0]].append(name)
    if groups:
        _examine_all(sorted(groups.values(), key=len, reverse=True), files, arch, workers, ledger)
    results = {name: ledger.results[name] for name in files}
    families, why = family_rows(results), reason_rows(results)
    write_csv(work_dir / 'configs.csv', ({'config': name} | r for name, r in results.items()))
    write_csv(work_dir / 'families.csv', families)
    write_csv(work_dir / 'reasons.csv', why)
    versions = ', '.join(f'{name} {number}' for name, number in setting['versions'].items())
    report = (
        f'Surveyed with Hiera ({arch}) on {versions}.\n\n'
        f'{_markdown(FAMILIES, families, texts=1)}\n\n{share(results)}\n\n'
        f'{_markdown(REASONS, why, texts=4)}\n'
    )
    (work_dir / 'table.md').write_text(report, encoding='utf-8')
    return report


def _examine_all(
    groups: list[list[str]], files: Mapping[str, Path], arch: str, workers: int, ledger: Ledger
) -> None:
    """Examine configs in several processes, each led by a thread, and keep what they find."""
    todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for names in groups:
        todo.put(names)
    bar, lock = ProgressBar(sum(map(len, groups))), threading.Lock()

    def keep(name: str, result: Result) -> None:
        with lock:
            ledger.add(name, result)
            bar.update()

    threads = [
        threading.Thread(target=_lead, args=(todo, files, arch, keep), daemon=True)
        for _ in range(min(workers, len(groups)))
    ]
    # Text encoders come from the cache alone; nobody is called for them.
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1'):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print()


def examine(name: str, file: Path, arch: str, call: Callable[..., Any]) -> Result:
    """Try one config.

    Models are built and run through `call`. The result has a ``status``, and, where known,
    ``reason``, ``model``, ``backbone``, ``seconds`` and whether Hiera ``keeps_channels``.
    """
    start = time.perf_counter()
    result: Result = {}
    try:
        original = read(file)
        model = with_absolute_files(original.config, file)['model']
        result['model'] = str(model.get('type'))
        kinds = [str(owner['backbone'].get('type')) for _, owner in owners(model)]
        result['backbone'] = ', '.join(dict.fromkeys(kinds))
        missing = [key for key in TRAIN_NEEDS if original.config.get(key) is None]
        if missing:
            raise ConfigError(f'It is not for training: it has no {" and no ".join(missing)}.')
    except ConfigError as error:
        return dict(status=UNUSABLE, reason=str(error).replace(f'{file} ', ''))
    try:
        swapped = prepare(original, arch, call=call)
        with tempfile.TemporaryDirectory() as folder:
            swapped.write(Path(folder) / 'swapped.py')
        result['status'] = SWAPPED
        result['keeps_channels'] = KEEPS_CHANNELS in swapped.remarks.values()
        result['reason'] = swapped.prediction_error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ConfigError) and error.__cause__ else error
        result |= dict(status=REFUSED, reason=str(cause))
        if not isinstance(error, ConfigError):
            result['reason'] = f'{type(error).__name__}: {error}'
        if not kinds:
            return result  # whether it works or not: there is nothing to swap
        try:
            masks = loads_masks(original.config)
            call(try_out, model, original.scope, masks=masks, gradients=False)
        except Exception as first:
            result |= dict(status=UNUSABLE, reason=f'{type(first).__name__}: {first}')
    result['seconds'] = round(time.perf_counter() - start, 1)
    return result


def remembering() -> Callable[..., Any]:
    """Return what calls functions, and answers a call that it knows with what came of the first.

    Many models agree but for the depth of the backbone that is taken out.
    """
    known: dict[str, tuple[Any, Exception | None]] = {}

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        key = repr((function.__name__, args, kwargs))
        if key not in known:
            try:
                known[key] = (function(*args, **kwargs), None)
            except Exception as error:
                # Without the frames that it and those before it came through: they hold the model.
                error.__traceback__ = error.__context__ = error.__cause__ = None
                known[key] = (None, error)
        result, error = known[key]
        if error is not None:
            raise error
        return result

    return call


def family_rows(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Count the results by family, all families last."""
    families: dict[str, list[Result]] = defaultdict(list)
    for name, result in sorted(results.items()):
        families[name.rpartition('/')[0] or '.'].append(result)
    rows = []
    for family, some in {**families, 'all': list(results.values())}.items():
        fates = [result['status'] for result in some]
        kept = sum(bool(result.get('keeps_channels')) for result in some)
        counts = (fates.count(SWAPPED), kept, fates.count(REFUSED), fates.count(UNUSABLE))
        rows.append(dict(zip(FAMILIES, (family, len(some), *counts), strict=True)))
    return rows


def share(results: Mapping[str, Result]) -> str:
    """Say how many of those that work take Hiera."""
    fates = [result['status'] for result in results.values()]
    able = len(fates) - fates.count(UNUSABLE)
    part = fates.count(SWAPPED) / able if able else 0
    return f'{fates.count(SWAPPED)} of {able} that work here take Hiera: {part:.1%}.'


def reason_rows(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return why configs were not swapped or do not predict, the most frequent reasons first."""
    titles = {
        REFUSED: 'refused',
        SWAPPED: 'swapped, and predicting no more than the original',
        UNUSABLE: 'the original fails here',
    }
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, result in results.items():
        if result.get('reason'):
            found[titles[result['status']], _first_line(result['reason'])].append(name)
    order = list(titles.values())
    return [
        dict(zip(REASONS, (len(names), fate, reason, names[0]), strict=True))
        for (fate, reason), names in sorted(
            found.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]))
        )
    ]


def _markdown(columns: tuple[str, ...], rows: list[dict[str, Any]], texts: int) -> str:
    cells = [[str(row[column] or '') for column in columns] for row in rows]
    return table(columns, cells, texts=texts, keep_empty=True)


def _configs(folder: Path | None) -> dict[str, Path]:
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f'There is no folder {folder.absolute()}.')
        found = configs_in(folder.absolute())
        if not found:
            raise ConfigError(f'There are no configs (*.py) in {folder.absolute()}.')
        return found
    return shipped()


def _lead(
    todo: queue.SimpleQueue[list[str]],
    files: Mapping[str, Path],
    arch: str,
    keep: Callable[[str, Result], None],
) -> None:
    """Give one process work until there is none, and start it anew when it dies."""
    context = multiprocessing.get_context('spawn')
    process = None
    for name in _names(todo):
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, arch), daemon=True)
            process.start()
            theirs.close()
        ours.send((name, files[name]))
        try:
            if ours.poll(LIMIT):
                keep(name, ours.recv())
                continue
            reason = f'it takes more than {LIMIT} seconds'
        except EOFError:
            process.join()
            reason = f'the process died (exit code {process.exitcode})'
        process.kill()
        process.join()
        process = None
        keep(name, dict(status=REFUSED, reason=reason))
    if process is not None:
        ours.close()
        process.join()


def _names(todo: queue.SimpleQueue[list[str]]) -> Iterator[str]:
    """Yield configs, family by family, until nothing is left to do."""
    while True:
        try:
            yield from todo.get_nowait()
        except queue.Empty:
            return


def _work(pipe: Connection, arch: str) -> None:
    """Examine what comes through a pipe, until it is closed."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what the toolboxes print would break up the progress bar
        os.dup2(silence, stream)
    call, family = remembering(), None
    while True:
        try:
            name, file = pipe.recv()
        except EOFError:
            return
        if name.rpartition('/')[0] != family:
            call, family = remembering(), name.rpartition('/')[0]
        pipe.send(examine(name, file, arch, call))
        gc.collect()  # models have cycles, and the next one may need the memory


def _first_line(reason: object) -> str:
    line = (str(reason).strip().splitlines() or [''])[0].replace('|', '/')
    line = ' '.join(re.sub(r'[^ "\']*/site-packages/', '', line).split())
    return line if len(line) <= 200 else line[:197] + '...'
