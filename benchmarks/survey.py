"""Which configs can take Hiera? All of them are tried, and a table tells."""

from __future__ import annotations

import csv
import gc
import logging
import multiprocessing
import os
import queue
import re
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import ProgressBar

from benchmarks.kit.ledger import Ledger
from hiera_mm.doctor import installed_versions
from hiera_mm.engine.launch import make_folder
from hiera_mm.errors import ConfigError
from hiera_mm.swap.find import TOOLBOXES, configs_in, owners, shipped
from hiera_mm.swap.swapping import prepare, read
from hiera_mm.swap.ways import KEEPS_CHANNELS
from hiera_mm.swap.workbench import Workbench

SWAPPED, REFUSED, UNUSABLE = 'swapped', 'refused', 'original fails'
LIMIT = 600  # seconds for one config


def run_survey(
    folder: Path | None, arch: str, work_dir: Path, workers: int, *, fresh: bool = False
) -> str:
    """Try to put Hiera into many configs.

    Each config is read, swapped, tried as by :func:`hiera_mm.swap.swap`, written, and read again.
    Where that fails, the original is tried. Models that are the same are tried once. What was
    done is kept, so that the survey goes on where it was interrupted.

    Args:
        folder: A folder of configs; ``None`` for those that the installed toolboxes ship.
        arch: The Hiera.
        work_dir: Folder for the results: ``results.jsonl``, ``configs.csv`` and ``table.md``.
        workers: Number of processes, of one thread each.
        fresh: Forget earlier results.

    Returns:
        The table by family, in Markdown, with the reasons below it.

    Raises:
        ConfigError: If there are no configs, or the folder cannot be written to.
    """
    files = _configs(folder)
    make_folder(work_dir)
    setting = dict(arch=arch, folder=str(folder), versions=installed_versions())
    ledger = Ledger(work_dir / 'results.jsonl', setting, fresh=fresh)
    # One process takes a whole family: there most models are alike.
    families: dict[str, list[str]] = defaultdict(list)
    for name in files:
        if name not in ledger.results:
            families[name.rpartition('/')[0]].append(name)
    todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for names in sorted(families.values(), key=len, reverse=True):
        todo.put(names)
    total = sum(map(len, families.values()))
    if total:
        bar, lock = ProgressBar(total), threading.Lock()

        def keep(name: str, result: dict[str, Any]) -> None:
            with lock:
                ledger.add(name, result)
                bar.update()

        threads = [
            threading.Thread(target=_lead, args=(todo, files, arch, keep), daemon=True)
            for _ in range(min(workers, len(families)))
        ]
        with _offline():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print()
    results = {name: ledger.results[name] for name in files}
    _write_csv(results, work_dir / 'configs.csv')
    versions = ', '.join(f'{name} {number}' for name, number in setting['versions'].items())
    head = f'Surveyed with Hiera ({arch}) on {versions}.'
    report = f'{head}\n\n{table(results)}\n\n{reasons(results)}\n'
    (work_dir / 'table.md').write_text(report, encoding='utf-8')
    return report


def examine(name: str, file: Path, arch: str, workbench: Workbench) -> dict[str, Any]:
    """Try one config.

    Args:
        name: What to call it.
        file: Where it is.
        arch: The Hiera.
        workbench: Where models are tried.

    Returns:
        ``status``, and, where known, ``reason``, ``model``, ``backbone``, ``seconds`` and whether
        Hiera ``keeps_channels`` of the old backbone.
    """
    start = time.perf_counter()
    result: dict[str, Any] = {}
    try:
        original = read(file)
        model = original.config['model']
        result['model'] = str(model.get('type'))
        kinds = [str(owner['backbone'].get('type')) for _, owner in owners(model)]
        result['backbone'] = ', '.join(dict.fromkeys(kinds))
    except ConfigError as error:
        return dict(status=UNUSABLE, reason=str(error).replace(f'{file} ', ''))
    try:
        swapped = prepare(original, arch, workbench=workbench)
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
            workbench.try_out(model, original.scope, masks=original.has_masks, gradients=False)
        except Exception as first:
            result |= dict(status=UNUSABLE, reason=f'{type(first).__name__}: {first}')
    result['seconds'] = round(time.perf_counter() - start, 1)
    return result


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of results by family.

    Args:
        results: Those of :func:`examine`, by the configs' names.
    """
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for name, result in results.items():
        for row in (name.rpartition('/')[0] or '.', ''):
            rows[row]['all'] += 1
            rows[row][result['status']] += 1
            rows[row]['keeps_channels'] += bool(result.get('keeps_channels'))
    lines = [
        '| family | configs | swapped | of these with the old channels | refused '
        '| original fails here |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    columns = ('all', SWAPPED, 'keeps_channels', REFUSED, UNUSABLE)
    for row in [*sorted(filter(None, rows)), '']:
        name = row or '**all**'
        lines.append(f'| {name} | ' + ' | '.join(str(rows[row][c] or '') for c in columns) + ' |')
    able = rows[''][SWAPPED] + rows[''][REFUSED]
    share = rows[''][SWAPPED] / able if able else 0
    lines += ['', f'{rows[""][SWAPPED]} of {able} that work here take Hiera: {share:.1%}.']
    return '\n'.join(lines)


def reasons(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return, in Markdown, why configs were not swapped, or do not predict, and how many.

    Args:
        results: Those of :func:`examine`, by the configs' names.
    """
    lines = []
    for status, title in (
        (REFUSED, 'Refused'),
        (SWAPPED, 'Swapped, and predicting no more than the original'),
        (UNUSABLE, 'The original fails here'),
    ):
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, result in results.items():
            if result['status'] == status and result.get('reason'):
                by_reason[_first_line(result['reason'])].append(name)
        if by_reason:
            lines += [f'### {title}', '', '| configs | reason | such as |', '| ---: | --- | --- |']
            for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
                lines.append(f'| {len(names)} | {reason} | {names[0]} |')
            lines.append('')
    return '\n'.join(lines).rstrip()


def _configs(folder: Path | None) -> dict[str, Path]:
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f'There is no folder {folder.absolute()}.')
        found = configs_in(folder.absolute())
        if not found:
            raise ConfigError(f'There are no configs (*.py) in {folder.absolute()}.')
        return found
    found = {}
    for toolbox in TOOLBOXES:
        try:
            found |= shipped(toolbox)
        except ImportError:
            continue
    return found


@contextmanager
def _offline() -> Iterator[None]:
    """Let processes started here take text encoders from the cache alone, and not call for them."""
    before = {name: os.environ.get(name) for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')}
    os.environ |= dict.fromkeys(before, '1')
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _lead(
    todo: queue.SimpleQueue[list[str]],
    files: Mapping[str, Path],
    arch: str,
    keep: Callable[[str, dict[str, Any]], None],
) -> None:
    """Give one process work until there is none, and start it anew when it dies."""
    process: multiprocessing.Process | None = None
    while True:
        try:
            names = todo.get_nowait()
        except queue.Empty:
            break
        for name in names:
            if process is None:
                ours, theirs = multiprocessing.get_context('spawn').Pipe()
                process = multiprocessing.get_context('spawn').Process(
                    target=_work, args=(theirs, arch), daemon=True
                )
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


def _work(pipe: Connection, arch: str) -> None:
    """Examine what comes through a pipe, until it is closed."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what the toolboxes print would break up the progress bar
        os.dup2(silence, stream)
    workbench, family = Workbench(), None
    while True:
        try:
            name, file = pipe.recv()
        except EOFError:
            return
        if name.rpartition('/')[0] != family:
            workbench, family = Workbench(), name.rpartition('/')[0]
        pipe.send(examine(name, file, arch, workbench))
        gc.collect()  # models have cycles, and the next one may need the memory


def _write_csv(results: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    columns = ('status', 'model', 'backbone', 'keeps_channels', 'reason', 'seconds')
    with file.open('w', newline='', encoding='utf-8') as stream:
        writer = csv.writer(stream)
        writer.writerow(('config', *columns))
        for name, result in results.items():
            writer.writerow((name, *(result.get(column) for column in columns)))


def _first_line(reason: object) -> str:
    line = (str(reason).strip().splitlines() or [''])[0].replace('|', '/')
    line = ' '.join(re.sub(r'[^ "\']*/site-packages/', '', line).split())
    return line if len(line) <= 200 else line[:197] + '...'
