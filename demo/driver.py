"""The demo from end to end: data, two trainings, two tests, a table and pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import DictAction
from rich.console import Console

from demo.figures import draw_curves, draw_detections, draw_segmentations
from demo.history import read_history
from demo.report import Result, results_table
from demo.samples import read_detections, read_segmentations
from demo.shapes import make_shapes
from demo.steps import DemoError, run_command, sole_run
from demo.tasks import DETECTOR, TASKS
from demo.training import Training
from hiera_mm.engine.config import load_config

PICTURED = 5  # images in each picture
MIN_SCORE = 0.5  # of the detections drawn


def run_demo(
    home: Path,
    work_dir: Path,
    console: Console,
    *,
    fresh: bool = False,
    options: Sequence[str] = (),
) -> bool:
    """Make the data, train, test and draw; skip what an earlier run has done.

    Args:
        home: Folder that holds configs/ and tools/.
        work_dir: Where everything but the data is written.
        console: Where the demo reports.
        fresh: Forget what earlier runs trained.
        options: `--cfg-options` for the tools, as on the command line.

    Returns:
        Whether every score reaches its bar.

    Raises:
        DemoError: If a step fails.
    """
    with sole_run(work_dir):
        run = partial(run_command, console=console)
        trainings = []
        for task in TASKS:
            config = load_config(home / task.config, cfg_options=_parse(options))
            trainings.append(Training(task, config, options, home, work_dir, run))
        total = 2 * len(trainings) + 2
        _announce(console, 1, total, 'Make the data')
        _make_data(trainings, console)
        for index, training in enumerate(trainings):
            if fresh or training.outdated:
                training.forget()
            title = training.task.title
            _announce(console, 2 * index + 2, total, f'Train {title}', done=training.trained)
            if not training.trained:
                training.train()
            _announce(console, 2 * index + 3, total, f'Test {title}', done=training.tested)
            if not training.tested:
                training.test()
        _announce(console, total, total, 'Draw')
        for training in trainings:
            _draw(training, work_dir)
    return _report(trainings, work_dir, console)


def _parse(options: Sequence[str]) -> dict[str, Any]:
    """Read `--cfg-options` as the tools do."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction)
    return vars(parser.parse_args(['--options', *options]))['options']


def _announce(console: Console, step: int, total: int, text: str, *, done: bool = False) -> None:
    """Say which step begins."""
    console.print(f'({step}/{total}) {text}' + (': done before' if done else ''), style='bold')


def _make_data(trainings: Sequence[Training], console: Console) -> None:
    """Make the data set where the configs look for it."""
    for root in {training.config.test_dataloader.dataset.data_root for training in trainings}:
        try:
            make_shapes(root, progress=console.is_terminal)
        except OSError as error:
            raise DemoError(f'The data set could not be made: {error}') from error


def _draw(training: Training, work_dir: Path) -> None:
    """Write the pictures of one training."""
    task, config = training.task, training.config
    classes = config.test_dataloader.dataset.metainfo.classes
    draw_curves(task, read_history(training.work_dir), work_dir / f'{task.name}-curves.png')
    file = work_dir / f'{task.name}-predictions.png'
    if task is DETECTOR:
        detections = read_detections(config, training.predictions, PICTURED, MIN_SCORE)
        draw_detections(detections, classes, file)
    else:
        draw_segmentations(
            read_segmentations(config, training.predictions, PICTURED), classes, file
        )


def _report(trainings: Sequence[Training], work_dir: Path, console: Console) -> bool:
    """Print the table and where the pictures are; return whether no bar was missed."""
    results = [
        Result(t.task, t.record.metrics, t.max_iters, t.record.seconds, t.record.device)
        for t in trainings
    ]
    console.print(results_table(results))
    for file in sorted(work_dir.glob('*.png')):
        console.print(f'picture: {file}', soft_wrap=True)
    missed = [name for result in results for name in result.missed]
    if missed:
        console.print(f'Below the bar: {", ".join(missed)}.', style='red')
    return not missed
