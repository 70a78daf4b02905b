"""One model of the demo: trained once, gone on with when interrupted, tested once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine.device import get_device
from rich.console import Console

from demo.tasks import DemoError, Task, run_command
from hiera_mm.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]  # of the repository
LOGGED = re.compile(r'(?:Iter|Epoch)\((train|val|test)\)\s*(?:\[\d+\])?\[\s*(\d+)/(\d+)\]')
TAIL = 4000  # characters, more than one evaluation logs at once


@dataclass
class History:
    """The log of a training, over all its interruptions.

    Attributes:
        losses: What was logged at each iteration: the total `loss`, its parts, `time` and more.
        metrics: For each evaluated iteration, the toolbox's metrics.
    """

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """The last logged iteration; 0 before the first."""
        return max(self.losses, default=0)

    def seconds_left(self, max_iters: int) -> float:
        """How long the rest of a training takes at the pace logged last."""
        return self.losses[self.iteration]['time'] * (max_iters - self.iteration)


def read_history(work_dir: Path) -> History:
    """Read what mmengine's `LocalVisBackend` wrote in a work folder, which need not exist yet.

    A training that was resumed has a log for each start. Where they overlap, because the first
    went on past its last checkpoint, the later one counts.
    """
    history = History()
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        # Half a line at the end is being written, or its writer was killed.
        whole_lines = log.read_text(encoding='utf-8').rpartition('\n')[0].splitlines()
        for record in map(json.loads, whole_lines):
            if 'loss' not in record:
                # The step of an evaluation may be an epoch. It follows its iteration in the log.
                history.metrics[history.iteration] = record
                continue
            step = record['step']
            history.metrics = {i: kept for i, kept in history.metrics.items() if i < step}
            history.losses = {i: kept for i, kept in history.losses.items() if i < step}
            history.losses[step] = record
    return history


def say_progress(task: Task, history: History, max_iters: int) -> str:
    """Say in one line how far a training is."""
    done = history.iteration
    if not done:
        return 'starting'
    latest = history.losses[done]
    parts = [f'iteration {done} of {max_iters}', f'loss {latest["loss"]:.2f}']
    for metrics in list(history.metrics.values())[-1:]:
        parts += [f'{score.name} {score.read(metrics):.2f}' for score in task.scores]
    left = history.seconds_left(max_iters)
    parts.append(f'{left:.0f} s left' if left < 90 else f'{left / 60:.0f} min left')
    return ', '.join(parts)


def say_evaluation(log: Path) -> str:
    """Say how far the evaluation is that a tool's text log ends with; '' if there is none."""
    logged = LOGGED.findall(log.read_text(encoding='utf-8', errors='replace')[-TAIL:])
    mode, done, total = logged[-1] if logged else ('train', '', '')
    return '' if mode == 'train' or done == total else f'evaluating {done} of {total}'


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
        options: `--cfg-options` for the tools, as on the command line.
        work_dir: The demo's work folder; the task gets a folder in it.
        console: Where progress is shown.
        start: A checkpoint whose backbone the training starts from; at random without one.

    Raises:
        DemoError: If the task's folder holds something else than the demo's own files.
    """

    def __init__(
        self,
        task: Task,
        options: Sequence[str],
        work_dir: Path,
        console: Console,
        start: Path | None = None,
    ) -> None:
        self.task = task
        self.config = load_config(ROOT / task.config, cfg_options=options)
        self.work_dir = work_dir / task.name
        self.predictions = self.work_dir / task.out
        self.max_iters = self.config.train_cfg.max_iters
        self.checkpoint = self.work_dir / f'iter_{self.max_iters}.pth'
        if start is not None:  # not in the fingerprint: a folder may move
            init_cfg = 'model.backbone.init_cfg'
            options = [f'{init_cfg}.type=Pretrained', f'{init_cfg}.checkpoint={start}', *options]
        self._options = ['--cfg-options', *options] if options else []
        self._console = console
        self._logs = work_dir / 'logs'
        content = json.dumps(self.config.to_dict(), sort_keys=True, default=str)
        self._fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self._record_file = work_dir / f'{task.name}.json'
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

    def train(self, on_pace: Callable[[float], None] | None = None) -> None:
        """Train, from the last checkpoint if there is one.

        Args:
            on_pace: Called once in a training that starts anew, with the seconds that it takes at
                the pace of its first iterations.

        Raises:
            DemoError: If the training fails.
        """
        self.record.device = get_device()
        self.record.metrics = {}
        started = time.monotonic() - self.record.seconds
        log = self._logs / f'{self.task.name}-train.log'
        waiting = not read_history(self.work_dir).losses

        def keep_time() -> None:
            self.record.seconds = time.monotonic() - started
            self._write_record()

        def progress() -> str:
            nonlocal waiting
            keep_time()
            history = read_history(self.work_dir)
            if on_pace is not None and waiting and history.losses:
                waiting = False
                on_pace(history.seconds_left(self.max_iters))
            said = say_progress(self.task, history, self.max_iters)
            return '; '.join(filter(None, (said, say_evaluation(log))))

        self._write_record()
        self._run(log, progress, 'train.py', '--work-dir', self.work_dir, '--resume')
        keep_time()

    def test(self) -> None:
        """Test the complete training and keep its metrics and predictions.

        Raises:
            DemoError: If the test fails.
        """
        folder = self.work_dir / 'test'
        shutil.rmtree(folder, ignore_errors=True)
        log = self._logs / f'{self.task.name}-test.log'
        arguments = (self.checkpoint, '--work-dir', folder, '--out', self.predictions)
        self._run(log, lambda: say_evaluation(log) or 'starting', 'test.py', *arguments)
        (metrics,) = folder.glob('*/[0-9]*.json')
        self.record.metrics = json.loads(metrics.read_text(encoding='utf-8'))
        self._write_record()

    def _run(
        self, log: Path, progress: Callable[[], str], tool: str, *arguments: str | Path
    ) -> None:
        """Run a tool on this task's config."""
        command = [ROOT / 'tools' / tool, ROOT / self.task.config, *arguments, *self._options]
        run_command(command, log, progress, self._console)

    def _read_record(self) -> Record:
        """Find what an earlier run left."""
        try:
            return Record(**json.loads(self._record_file.read_text(encoding='utf-8')))
        except (FileNotFoundError, ValueError, TypeError):
            if self.work_dir.exists():
                raise DemoError(
                    f'{self.work_dir} was not made by this version of the demo, which would have '
                    f'written {self._record_file}. Move the folder away, or choose another '
                    '--work-dir.'
                ) from None
            return Record(self._fingerprint)

    def _write_record(self) -> None:
        """Replace the record at once, so that an interruption leaves the old or the new one."""
        new = self._record_file.with_suffix('.new')
        new.write_text(json.dumps(asdict(self.record), indent=2), encoding='utf-8')
        new.replace(self._record_file)
