"""Checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend = self.file_backend
        self.file_backend = _Postponing(backend)
        try:
            yield
            postponed = self.file_backend.removals
        finally:
            self.file_backend = backend
        if not is_main_process():
            return
        # After a resume the same step may be saved once more, in place of itself.
        new = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        new |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in postponed:
            if path not in new:
                (backend.rmtree if backend.isdir(path) else backend.remove)(path)


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


def _cannot_save(path: Path, size: int, error: OSError) -> str:
    message = f'{path} ({size / 2**20:,.1f} MiB) cannot be written: {error.strerror}.'
    with suppress(OSError):
        message += f' {shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB are free there.'
    return (
        f'{message} Earlier checkpoints are untouched. Make room, keep fewer '
        '(default_hooks.checkpoint.max_keep_ckpts), then go on with --resume.'
    )
