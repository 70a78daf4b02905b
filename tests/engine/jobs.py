"""Trains what a file of jobs describes, one after the other, in each process that runs it.

Importing the toolboxes takes longer than these trainings, so several share a start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import hiera_mm  # noqa: F401  before the toolboxes
from hiera_mm.engine import DataError, run_tool, train


@HOOKS.register_module()
class NoteLosses(Hook):
    """Writes the loss of each iteration, averaged over the processes, into a file."""

    def __init__(self, file):
        self.file = Path(file)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        if runner.rank == 0:
            with self.file.open('a') as file:
                file.write(f'{loss.item():.9g}\n')


@HOOKS.register_module()
class Die(Hook):
    """Ends the second process after an iteration: by an error, or as if it ran out of memory."""

    def __init__(self, how):
        self.how = how

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank == 1 and batch_idx == 1:
            if self.how == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError('the disk of the second process is on fire')


def main() -> None:
    """Run the jobs of the file that the command line names."""
    for job in json.loads(Path(sys.argv[1]).read_text()):
        refusal = job.pop('refusal', None)
        try:
            runner: Runner = train(**job)
            del runner
        except DataError as error:
            if refusal is None:
                raise
            Path(f'{refusal}{os.environ["RANK"]}').write_text(str(error))


if __name__ == '__main__':
    run_tool(main)
