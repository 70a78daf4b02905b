"""The two models of the demo, what is asked of them, and how their commands are run."""

from __future__ import annotations

import ctypes
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hiera_mm.errors import UserError

POLL_SECONDS = 1.0
LINE_SECONDS = 15.0  # between two lines where the output is not a terminal
END_SECONDS = 10.0  # for a command to end by itself after it was told to
TAIL_LINES = 30
PR_SET_PDEATHSIG = 1


class DemoError(UserError):
    """The demo cannot go on."""


@dataclass(frozen=True)
class Score:
    """One number that a model is judged by.

    Attributes:
        name: What the field calls it.
        key: Its key among the metrics of the toolbox.
        full: The toolbox's value of a perfect score, 1 or 100.
        bar: The least that the demo has to reach, between 0 and 1.
    """

    name: str
    key: str
    full: float
    bar: float

    def read(self, metrics: Mapping[str, float]) -> float:
        """Return the score from a toolbox's metrics, between 0 and 1."""
        return metrics[self.key] / self.full

    def missed(self, metrics: Mapping[str, float]) -> bool:
        """Whether the score does not reach its bar, as one that is NaN never does."""
        return not self.read(metrics) >= self.bar


@dataclass(frozen=True)
class Task:
    """One model of the demo.

    Attributes:
        name: Its folder under the demo's work folder.
        title: Its name for people.
        config: Path of its config, from the repository root.
        scores: What it is judged by.
        out: What `tools/test.py --out` is given, in the model's folder.
    """

    name: str
    title: str
    config: str
    scores: tuple[Score, ...]
    out: str


DETECTOR = Task(
    name='detector',
    title='Mask R-CNN',
    config='configs/demo/mask-rcnn_hiera-demo_fpn_shapes.py',
    scores=(
        Score('box AP', 'coco/bbox_mAP', full=1.0, bar=0.50),
        Score('mask AP', 'coco/segm_mAP', full=1.0, bar=0.45),
    ),
    out='predictions.pkl',
)
SEGMENTER = Task(
    name='segmenter',
    title='UPerNet',
    config='configs/demo/upernet_hiera-demo_shapes.py',
    scores=(Score('mIoU', 'mIoU', full=100.0, bar=0.75),),
    out='predictions',
)
TASKS = (SEGMENTER, DETECTOR)


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep a second run of the demo out of a folder, made if missing, while this one is at work.

    Raises:
        DemoError: If another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f'Another run of the demo is at work in {folder}. Wait for it, or end it.'
            ) from None
        yield


def run_command(
    command: Sequence[str | Path], log: Path, progress: Callable[[], str], console: Console
) -> None:
    """Run a Python program and show how far it is.

    Args:
        command: The program and its arguments.
        log: File that gets all its output.
        progress: Says how far the command is; called about once a second.
        console: Where progress is shown: one living line in a terminal, else a line now and then.

    Raises:
        DemoError: If the command fails; the message has the last lines of its log.
        KeyboardInterrupt: If someone interrupted or ended the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w', encoding='utf-8') as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        )
        try:
            _watch(process, console, progress)
        finally:
            _end(process)
    if process.returncode in (-signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt  # someone ended the command alone; what it did so far stands
    if process.returncode != 0:
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-TAIL_LINES:]
        raise DemoError(
            f'{Path(command[0]).name} failed (exit status {process.returncode}). Its log, {log}, '
            f'ends so:\n\n' + '\n'.join(lines) + '\n\n'
            'To look for known faults of the installation, run:\n'
            f'  {sys.executable} -m hiera_mm.doctor\n'
            'Once the fault is mended, the same command goes on from the last checkpoint.'
        )


def _watch(process: subprocess.Popen[bytes], console: Console, progress: Callable[[], str]) -> None:
    """Show progress until the process ends."""
    printed = time.monotonic()
    with console.status('starting') as status:
        while True:
            try:
                process.wait(POLL_SECONDS)
                return
            except subprocess.TimeoutExpired:
                text = progress()
            if console.is_terminal:
                status.update(text)
            elif time.monotonic() - printed >= LINE_SECONDS:
                console.print(f'      {text}')
                printed = time.monotonic()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still running because the demo was interrupted."""
    # Ctrl-C reached it too. A second signal at once would keep it from ending its data loaders.
    for patience, then in ((POLL_SECONDS, signal.SIGINT), (END_SECONDS, signal.SIGKILL)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(then)
    process.wait()


def _end_with_parent() -> None:
    """Have this process interrupted when its parent dies, even of SIGKILL; known to Linux only."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs start with it ignored
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
