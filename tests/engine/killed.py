"""Trains, is killed, goes on, is killed again: `killed.py CONFIG FOLDER KILLS`.

Each attempt is a process of its own. They are forked from one that has imported everything, since
importing takes longer than the training.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import hiera_mm  # noqa: F401  before the toolboxes
from hiera_mm.engine import checkpoints, train

importlib.import_module('mmseg.apis')
SAVING = 'in the middle of a checkpoint'
STARTING = 'while starting'
start_read, start_write = os.pipe()
finished: list[int] = []


@HOOKS.register_module()
class TellStart(Hook):
    """Tells the parent process that the first iteration is about to begin."""

    def before_train(self, runner: Runner) -> None:
        """Tell it."""
        os.write(start_write, b'!')


def attempt(config: str, folder: Path, kill: float | str | None) -> float | None:
    """Train in a child process and kill it.

    Args:
        config: The config.
        folder: The work dir.
        kill: After how many seconds of training, or another moment; None for never.

    Returns:
        How many seconds it trained if it came to the end, else None.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = (folder.parent / 'log.txt').open('a')
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            if kill == SAVING:
                checkpoints.os.fsync = die_halfway
            train(config, work_dir=str(folder), resume='auto')
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill == STARTING:
        time.sleep(0.5)
    else:
        os.read(start_read, 1)
    started = time.monotonic()
    if isinstance(kill, float):
        time.sleep(kill)
    if kill not in (SAVING, None):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f'the training failed:\n{(folder.parent / "log.txt").read_text()[-4000:]}')
    return time.monotonic() - started if os.WIFEXITED(status) else None


def die_halfway(descriptor: int) -> None:
    """Stand in for `os.fsync`: let one file be; of the next leave half, and be killed."""
    finished.append(descriptor)
    if len(finished) > 1:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Train once undisturbed, then with kills; report what was left after each of them."""
    config, root, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(0)
    mean = attempt(config, root / 'whole', None) / kills  # seconds of training for each kill
    moments = [draw.uniform(0, 2) * mean for _ in range(kills)]
    moments[kills // 3], moments[kills // 2] = SAVING, STARTING
    left = []
    for moment in moments:
        if attempt(config, root / 'killed', moment) is not None:
            break  # there was nothing left to kill
        left.append([moment, sorted(path.name for path in (root / 'killed').glob('*.pth*'))])
    attempt(config, root / 'killed', None)
    print(json.dumps(left))


if __name__ == '__main__':
    main()
