"""The table that the demo ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from demo.tasks import Task


@dataclass(frozen=True)
class Result:
    """What one training came to.

    Attributes:
        task: What was trained.
        metrics: The toolbox's metrics on the held-out images.
        iterations: Length of the training.
        seconds: Its duration.
        device: What it ran on.
    """

    task: Task
    metrics: dict[str, float]
    iterations: int
    seconds: float
    device: str

    @property
    def missed(self) -> list[str]:
        """Names of the scores that do not reach their bars, those that are NaN included."""
        return [s.name for s in self.task.scores if not s.read(self.metrics) >= s.bar]


def results_table(results: Sequence[Result]) -> Table:
    """Return a table with a row for each score of each result, its bar beside it."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ('model', 'score', 'measured', 'bar', ''):
        table.add_column(heading, justify='right' if heading in ('measured', 'bar') else 'left')
    for heading in ('iterations', 'minutes', 'device'):
        table.add_column(heading, justify='left' if heading == 'device' else 'right')
    for result in results:
        about = (str(result.iterations), f'{result.seconds / 60:.1f}', result.device)
        for index, score in enumerate(result.task.scores):
            met = score.name not in result.missed
            table.add_row(
                result.task.title if index == 0 else '',
                score.name,
                f'{score.read(result.metrics):.3f}',
                f'{score.bar:.2f}',
                '[green]✓[/]' if met else '[red]✗[/]',
                *(about if index == 0 else ('', '', '')),
            )
    return table
