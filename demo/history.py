"""What a training has logged so far: losses and scores by iteration."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

LOGGED = re.compile(r'(?:Iter|Epoch)\((train|val|test)\)\s*(?:\[\d+\])?\[\s*(\d+)/(\d+)\]')
TAIL = 4000  # characters, more than one evaluation logs at once


@dataclass
class History:
    """The log of a training, over all its interruptions.

    Attributes:
        losses: For each logged iteration, the total `loss` and the parts it is made of.
        metrics: For each evaluated iteration, the toolbox's metrics.
    """

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """The last logged iteration; 0 before the first."""
        return next(reversed(self.losses), 0)


def read_history(work_dir: Path) -> History:
    """Read what mmengine's `LocalVisBackend` wrote in a work folder.

    A training that was resumed has a log for each start. Where they overlap, because the first
    went on past its last checkpoint, the later one counts.

    Args:
        work_dir: The `--work-dir` of the training; need not exist yet.
    """
    history = History()
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = [json.loads(line) for line in _whole_lines(log)]
        losses = [record for record in records if 'loss' in record]
        if losses:
            _forget_from(history, losses[0]['step'])
        for record in records:
            if 'loss' in record:
                parts = {key: value for key, value in record.items() if 'loss' in key}
                history.losses[record['step']] = parts
            else:
                # The step of an evaluation may be an epoch. It follows its iteration in the log.
                history.metrics[history.iteration] = record
    return history


def evaluation_progress(log: Path) -> tuple[int, int] | None:
    """Say how far the evaluation is that a tool's text log ends with.

    Returns:
        Batches done and in all, or None if the tool is not evaluating.
    """
    logged = LOGGED.findall(log.read_text(encoding='utf-8', errors='replace')[-TAIL:])
    if not logged:
        return None
    mode, done, total = logged[-1]
    return None if mode == 'train' or done == total else (int(done), int(total))


def _whole_lines(log: Path) -> list[str]:
    """Return the lines that were written to their end: a killed or running writer leaves half."""
    text, newline, _ = log.read_text(encoding='utf-8').rpartition('\n')
    return text.splitlines() if newline else []


def _forget_from(history: History, step: int) -> None:
    """Drop what an earlier start logged after the checkpoint that a later one went on from."""
    for logged in (history.losses, history.metrics):
        for iteration in [i for i in logged if i >= step]:
            del logged[iteration]
