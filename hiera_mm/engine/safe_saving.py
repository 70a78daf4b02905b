"""Checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import CheckpointError

UNFINISHED = '.part'
"""Added to the name of a file that is being written."""


def make_saving_safe() -> None:
    """From now on, let nothing in this process replace or remove a file before the next is whole.

    mmengine writes a checkpoint straight into its final name and removes an older one first, so
    that a kill or a full disk in between can leave nothing to go on from. Both the writing and the
    order are replaced under their registered names, so every config gets them unchanged.
    """
    register_backend('local', WholeFileBackend, force=True, prefixes='')
    HOOKS.register_module('CheckpointHook', module=KeepingCheckpointHook, force=True)


class WholeFileBackend(LocalBackend):
    """mmengine's local files, written under another name first and renamed when complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; what had its name before stays until the new one is on the disk.

        Args:
            obj: The content.
            filepath: Where it goes; its folder is made if need be.

        Raises:
            CheckpointError: If the disk is full or does not take the file.
        """
        path = Path(filepath)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())  # a rename can reach the disk before the content does
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise CheckpointError(_cannot_save(path, len(obj), error)) from error


class KeepingCheckpointHook(CheckpointHook):
    """mmengine's checkpoints, of which an old one is removed only after the new one is whole."""

    def before_train(self, runner: Runner) -> None:
        """Find the checkpoints of an earlier run."""
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            # For a moment there is one more of them than are kept.
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids, self.max_keep_ckpts + 1)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        keep = self.max_keep_ckpts
        if keep <= 0:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        # The parent removes one before it saves if there are as many as may be kept. With one more
        # it does not, and notes in the new checkpoint that the old one is there: if the process is
        # killed before the removal below, the next run makes up for it.
        self.max_keep_ckpts = keep + 1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        while len(self.keep_ckpt_ids) > keep:
            old = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            if is_main_process():
                _remove(self.file_backend, self.file_backend.join_path(self.out_dir, old))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend = self.file_backend
        self.file_backend = _Postponing(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
            postponed = self.file_backend.removals
        finally:
            self.file_backend = backend
        # After a resume the same step may be saved once more, in place of itself.
        new = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        new |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        if is_main_process():
            for path in postponed:
                if path not in new:
                    _remove(backend, path)


class _Postponing:
    """A file backend that notes what is to be removed and removes nothing."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removals: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(path)

    rmtree = remove


def _remove(backend: Any, path: str) -> None:
    """Remove a checkpoint, which some strategies save as a folder; it may be gone already."""
    if backend.isdir(path):
        backend.rmtree(path)
    elif backend.isfile(path):
        backend.remove(path)


def _cannot_save(path: Path, size: int, error: OSError) -> str:
    message = f'{path} ({size / 2**20:,.1f} MiB) cannot be written: {error.strerror}.'
    with suppress(OSError):
        message += f' {shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB are free there.'
    return (
        f'{message} Earlier checkpoints are untouched. Make room, keep fewer '
        '(default_hooks.checkpoint.max_keep_ckpts), then go on with --resume.'
    )
