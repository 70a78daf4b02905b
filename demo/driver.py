"""The demo from end to end: data, two trainings, two tests, a table and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from demo.figures import draw_curves, draw_detections, draw_segmentations
from demo.shapes import make_shapes
from demo.tasks import DETECTOR, SEGMENTER, TASKS, DemoError, sole_run
from demo.training import Training, read_history

# The whole demo, in trainings of the segmenter at the pace of its first iterations, as measured on
# two cores on 2026-11-27.
WHOLE = 6.5


def run_demo(
    work_dir: Path, console: Console, *, fresh: bool = False, options: Sequence[str] = ()
) -> bool:
    """Make the data, train, test and draw; skip what an earlier run has done.

    Args:
        work_dir: Where everything but the data is written.
        console: Where the demo reports.
        fresh: Forget what earlier runs trained.
        options: `--cfg-options` for the tools, as on the command line.

    Returns:
        Whether every score reaches its bar.

    Raises:
        DemoError: If a step fails.
    """
    total = 2 * len(TASKS) + 2

    def announce(step: int, text: str, *, done: bool = False) -> None:
        console.print(f'({step}/{total}) {text}' + (': done before' if done else ''), style='bold')

    def say_duration(training_seconds: float) -> None:
        minutes = max(1, round(WHOLE * training_seconds / 60))
        console.print(f'      On this machine the whole demo takes about {minutes} min.')

    with sole_run(work_dir):
        trainings: list[Training] = []
        for task in TASKS:  # the detector's backbone starts from what the segmenter has learnt
            start = trainings[0].checkpoint if trainings else None
            trainings.append(Training(task, options, work_dir, console, start))
        announce(1, 'Make the data')
        for root in {training.config.test_dataloader.dataset.data_root for training in trainings}:
            try:
                make_shapes(root, progress=console.is_terminal)
            except OSError as error:
                raise DemoError(f'The data set could not be made: {error}') from error
        renew = fresh
        for index, training in enumerate(trainings):
            renew = renew or training.outdated  # and with it what starts from it
            if renew:
                training.forget()
            title = training.task.title
            announce(2 * index + 2, f'Train {title}', done=training.trained)
            if not training.trained:
                training.train(say_duration if training.task is SEGMENTER else None)
            announce(2 * index + 3, f'Test {title}', done=training.tested)
            if not training.tested:
                training.test()
        announce(total, 'Draw')
        for training in trainings:
            name = training.task.name
            history = read_history(training.work_dir)
            draw_curves(training.task, history, work_dir / f'{name}-curves.png')
            draw = draw_detections if training.task is DETECTOR else draw_segmentations
            draw(training.config, training.predictions, work_dir / f'{name}-predictions.png')
    console.print(_table(trainings))
    for file in sorted(work_dir.glob('*.png')):
        console.print(f'picture: {file}', soft_wrap=True)
    missed = [s.name for t in trainings for s in t.task.scores if s.missed(t.record.metrics)]
    if missed:
        console.print(f'Below the bar: {", ".join(missed)}.', style='red')
    return not missed


def _table(trainings: Sequence[Training]) -> Table:
    """Return a table with a row for each score, its bar beside it."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ('model', 'score', 'measured', 'bar', '', 'iterations', 'minutes', 'device'):
        number = heading in ('measured', 'bar', 'iterations', 'minutes')
        table.add_column(heading, justify='right' if number else 'left')
    for training in trainings:
        task, record = training.task, training.record
        title = task.title
        about = [str(training.max_iters), f'{record.seconds / 60:.1f}', record.device]
        for score in task.scores:
            measured = f'{score.read(record.metrics):.3f}'
            mark = '[red]✗[/]' if score.missed(record.metrics) else '[green]✓[/]'
            table.add_row(title, score.name, measured, f'{score.bar:.2f}', mark, *about)
            title, about = '', []  # once for each model
    return table
