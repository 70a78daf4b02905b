"""One model of the demo: trained once, gone on with when interrupted, tested once."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from mmengine.config import Config
from mmengine.device import get_device

from demo.history import History, evaluation_progress, read_history
from demo.steps import DemoError
from demo.tasks import Task


class Run(Protocol):
    """Runs a command; `run_command` with its console filled in."""

    def __call__(
        self, command: Sequence[str | Path], log: Path, progress: Callable[[], str]
    ) -> None:
        """Run `command`, its output in `log`; `progress` says how far it is."""


@dataclass
class Record:
    """What is kept about a training from one run of the demo to the next.

    Attributes:
        config: Fingerprint of the config trained.
        seconds: Spent on training so far.
        device: What it was trained on.
        metrics: What the test gave; empty before it.
    """

    config: str
    seconds: float = 0.0
    device: str = ''
    metrics: dict[str, float] = field(default_factory=dict)


class Training:
    """The training and the test of one task.

    Args:
        task: The task.
        config: Its config, with the options merged in.
        options: `--cfg-options` for the tools, as on the command line.
        home: Folder that holds configs/ and tools/.
        work_dir: The demo's work folder; the task gets a folder in it.
        run: Runs a command.

    Raises:
        DemoError: If the task's folder holds something else than the demo's own files.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        options: Sequence[str],
        home: Path,
        work_dir: Path,
        run: Run,
    ) -> None:
        self.task = task
        self.config = config
        self.work_dir = work_dir / task.name
        self.predictions = self.work_dir / task.out
        self.max_iters = config.train_cfg.max_iters
        self.checkpoint = self.work_dir / f'iter_{self.max_iters}.pth'
        self._options = ['--cfg-options', *options] if options else []
        self._home = home
        self._logs = work_dir / 'logs'
        self._run = run
        self._record_file = work_dir / f'{task.name}.json'
        self._fingerprint = _fingerprint(config)
        self.record = self._read_record()

    @property
    def outdated(self) -> bool:
        """Whether what an earlier run left was trained with another config."""
        return self.record.config != self._fingerprint

    @property
    def trained(self) -> bool:
        """Whether the training is complete."""
        # mmengine names a checkpoint here once it is written to its end.
        last = self.work_dir / 'last_checkpoint'
        named = Path(last.read_text().strip()).name if last.is_file() else None
        return named == self.checkpoint.name and self.checkpoint.is_file()

    @property
    def tested(self) -> bool:
        """Whether the complete training was tested, and its predictions are still there."""
        return self.trained and bool(self.record.metrics) and self.predictions.exists()

    def forget(self) -> None:
        """Remove the training and all that came of it."""
        shutil.rmtree(self.work_dir, ignore_errors=True)
        self._record_file.unlink(missing_ok=True)
        self.record = Record(self._fingerprint)

    def train(self) -> None:
        """Train, from the last checkpoint if there is one.

        Raises:
            DemoError: If the training fails.
        """
        self.record.device = get_device()
        self.record.metrics = {}
        before, started = self.record.seconds, time.monotonic()
        say = Progress(self.task, self.max_iters, read_history(self.work_dir).iteration)
        log = self._logs / f'{self.task.name}-train.log'

        def keep_time() -> None:
            self.record.seconds = before + time.monotonic() - started
            self._write_record()

        def progress() -> str:
            keep_time()
            said = say(read_history(self.work_dir), time.monotonic())
            evaluating = _evaluating(log)
            return f'{said}; {evaluating}' if evaluating else said

        self._write_record()
        command = self._command('train.py', '--work-dir', self.work_dir, '--resume')
        self._run(command, log, progress)
        keep_time()

    def test(self) -> None:
        """Test the complete training and keep its metrics and predictions.

        Raises:
            DemoError: If the test fails.
        """
        folder = self.work_dir / 'test'
        shutil.rmtree(folder, ignore_errors=True)
        command = self._command(
            'test.py', self.checkpoint, '--work-dir', folder, '--out', self.predictions
        )
        log = self._logs / f'{self.task.name}-test.log'
        self._run(command, log, lambda: _evaluating(log) or 'starting')
        (metrics,) = folder.glob('*/[0-9]*.json')
        self.record.metrics = json.loads(metrics.read_text(encoding='utf-8'))
        self._write_record()

    def _command(self, tool: str, *arguments: str | Path) -> list[str | Path]:
        """Return the command that runs a tool on this task's config."""
        return [
            self._home / 'tools' / tool,
            self._home / self.task.config,
            *arguments,
            *self._options,
        ]

    def _read_record(self) -> Record:
        """Find what an earlier run left."""
        try:
            return Record(**json.loads(self._record_file.read_text(encoding='utf-8')))
        except FileNotFoundError:
            if self.work_dir.exists():
                raise DemoError(
                    f'{self.work_dir} was not made by the demo (there is no {self._record_file}). '
                    'Move it away, or choose another --work-dir.'
                ) from None
            return Record(self._fingerprint)
        except (ValueError, TypeError):
            raise DemoError(
                f'{self._record_file} is not a record that this version of the demo wrote. '
                f'Remove it and {self.work_dir} to start anew.'
            ) from None

    def _write_record(self) -> None:
        """Replace the record at once, so that an interruption leaves the old or the new one."""
        new = self._record_file.with_suffix('.new')
        new.write_text(json.dumps(asdict(self.record), indent=2), encoding='utf-8')
        new.replace(self._record_file)


class Progress:
    """Says how far a training is.

    Args:
        task: What is trained.
        max_iters: Iterations that make it complete.
        iteration: The last one logged before this start.
    """

    def __init__(self, task: Task, max_iters: int, iteration: int) -> None:
        self.task = task
        self.max_iters = max_iters
        self.iteration = iteration
        self._first: tuple[int, float] | None = None  # iteration and time of this start's first log

    def __call__(self, history: History, now: float) -> str:
        """Return one line about the state in `history`, read at `now` (seconds)."""
        if self._first is None and history.iteration != self.iteration:
            self._first = (history.iteration, now)
        if self._first is None:
            return f'starting at iteration {history.iteration} of {self.max_iters}'
        parts = [
            f'iteration {history.iteration} of {self.max_iters}',
            f'loss {history.losses[history.iteration]["loss"]:.2f}',
        ]
        if history.metrics:
            latest = next(reversed(history.metrics.values()))
            parts += [f'{score.name} {score.read(latest):.2f}' for score in self.task.scores]
        iteration, time_then = self._first
        if history.iteration > iteration:
            pace = (now - time_then) / (history.iteration - iteration)
            left = pace * (self.max_iters - history.iteration)
            parts.append(f'{left:.0f} s left' if left < 90 else f'{left / 60:.0f} min left')
        return ', '.join(parts)


def _evaluating(log: Path) -> str:
    """Say how far the evaluation is, or nothing if there is none."""
    progress = evaluation_progress(log)
    return 'evaluating {} of {}'.format(*progress) if progress else ''


def _fingerprint(config: Config) -> str:
    """Return a digest that changes whenever anything in the config does."""
    content = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
