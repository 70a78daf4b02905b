"""Trains, is killed, goes on, is killed again: `killed.py CONFIG FOLDER KILLS`.

Each attempt is a process of its own, which kills itself at a chosen moment. They are forked from
one that has imported everything, since importing takes longer than the training.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import hiera_mm  # noqa: F401  before the toolboxes
from hiera_mm.engine import checkpoints, train

importlib.import_module('mmseg.apis')
SAVING = 'in the middle of a checkpoint'
finished: list[int] = []


@HOOKS.register_module()
class KillAfter(Hook):
    """Kills its process after some iterations, before a checkpoint of the last one is written."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def before_train(self, runner: Runner) -> None:
        """Count from where the training goes on."""
        self.last = runner.iter + self.iterations
        if not self.iterations:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Kill it."""
        if runner.iter + 1 == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(config: str, folder: Path, kill: int | str | None) -> bool:
    """Train in a child process that kills itself; return whether it came to the end all the same.

    Args:
        config: The config.
        folder: The work dir.
        kill: After how many iterations, or `SAVING`; None for never.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = (folder.parent / 'log.txt').open('a')
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            options = {}
            if kill == SAVING:
                checkpoints.os.fsync = die_halfway
            elif kill is not None:
                options['custom_hooks'] = [dict(type='KillAfter', iterations=kill)]
            train(config, work_dir=str(folder), resume='auto', cfg_options=options)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f'the training failed:\n{(folder.parent / "log.txt").read_text()[-4000:]}')
    return os.WIFEXITED(status)


def die_halfway(descriptor: int) -> None:
    """Stand in for `os.fsync`: let one file be; of the next leave half, and be killed."""
    finished.append(descriptor)
    if len(finished) > 1:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Train once undisturbed, then with kills; report what was left after each of them."""
    config, root, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    gc.freeze()  # what was imported is not looked through in each child
    draw = random.Random(0)
    moments = [draw.randint(1, 3) for _ in range(kills)]
    moments[1], moments[2] = SAVING, 0
    attempt(config, root / 'whole', None)
    left = []
    for moment in moments:
        if attempt(config, root / 'killed', moment):
            break  # there was nothing left to kill
        left.append([moment, sorted(path.name for path in (root / 'killed').glob('*.pth*'))])
    attempt(config, root / 'killed', None)
    print(json.dumps(left))


if __name__ == '__main__':
    main()
