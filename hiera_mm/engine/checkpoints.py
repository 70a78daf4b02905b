"""Checkpoints: read without running a pickle, written whole or not at all, found to resume from."""

from __future__ import annotations

import os
import re
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine.fileio.io as mmengine_io
import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from ..errors import CheckpointError, UserError
from ..weights.reading import read_checkpoint, read_file, safe_load
from ..weights.sources import locate
from .config import type_name, walk, warn

UNFINISHED = '.part'
"""Added to the name of a file that is being written."""

_NAME = re.compile(r'(?P<kind>epoch|iter)_(?P<number>\d+)\.pth')


def make_loading_safe() -> None:
    """From now on, let nothing in this process unpickle a checkpoint unsafely.

    mmengine loads weights in many places (``load_from``, ``--resume``, ``init_cfg``), and
    onedl-mmengine answers a refused pickle by running it. This closes every way: torch is told to
    refuse whatever the caller asks for, and both stacks read files and what web servers have as
    `Hiera` reads its weights.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    CheckpointLoader.register_scheme(
        prefixes=('', 'http://', 'https://'), loader=load_from_anywhere, force=True
    )
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        # onedl-mmengine's remaining backends; its list of safe things has the real `getattr`.
        mmengine_checkpoint._safe_torch_load = safe_load


def load_from_anywhere(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint as `locate` finds it; mmengine logs the last part of this name."""
    return read_file(locate(filename), map_location)


def make_saving_safe(cfg: Config) -> None:
    """From now on, let nothing in this process replace or remove a file before the next is whole.

    mmengine writes a checkpoint straight into its final name and removes an older one first, so
    that a kill or a full disk in between can leave nothing to go on from. Both the writing and the
    order are replaced under their registered names, so every config gets them unchanged; one
    that names the hook's class or module is changed to its registered name.

    Args:
        cfg: The config; changed in place.
    """
    register_backend('local', WholeFileBackend, force=True, prefixes='')
    HOOKS.register_module('CheckpointHook', module=KeepingCheckpointHook, force=True)
    mmengine_io.backend_instances.clear()  # the one that an earlier use of it left there
    for hook in (*walk(cfg.get('default_hooks')), *walk(cfg.get('custom_hooks'))):
        kind = hook.get('type')
        by_module = str(kind).startswith('mmengine.') and type_name(hook) == 'CheckpointHook'
        if by_module or kind is CheckpointHook:
            hook['type'] = 'CheckpointHook'


def use_resume(cfg: Config, resume: str | None) -> None:
    """Go on from a checkpoint, with its optimizer and its place in the schedule.

    Args:
        cfg: The config; changed in place. If there is nothing to resume from, it is left to start
            anew, from its own `load_from` if it has one.
        resume: A checkpoint, or ``'auto'`` for the latest one in the work dir that is whole; None
            for what the config says.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    if resume is None and cfg.get('resume'):
        resume = cfg.resume if isinstance(cfg.resume, str) else cfg.get('load_from') or 'auto'
    if resume == 'auto':
        resume = latest_whole_checkpoint(cfg.work_dir)
        if resume is None:
            warn(f'{cfg.work_dir} has no checkpoint to resume from, so training starts anew.')
    cfg.resume = resume is not None
    if cfg.resume:
        cfg.load_from = resume


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """Find the latest checkpoint of a training that can be read.

    mmengine's note of the latest one is not relied upon: it may be empty or stale, and what it
    names may be damaged.

    Args:
        work_dir: The training's folder.

    Returns:
        The file; None if there is no checkpoint at all.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    problems = []
    for file in _candidates(Path(work_dir)):
        try:
            read_checkpoint(file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f'{problem} Going on from the one before it, {file}.')
        return str(file)
    if problems:
        raise CheckpointError(
            '--resume: no checkpoint of this training can be read:\n  ' + '\n  '.join(problems)
        )
    return None


def _candidates(work_dir: Path) -> list[Path]:
    """Return the checkpoints of a training, the latest first."""
    note = work_dir / 'last_checkpoint'
    latest = Path(note.read_text(encoding='utf-8').strip()) if note.is_file() else Path()
    if latest.is_file() and not (work_dir / latest.name).is_file():
        folder = latest.parent  # of a config that keeps checkpoints elsewhere
    else:
        folder = work_dir  # the path in the note is stale if the folder was moved
    noted = _NAME.fullmatch(latest.name)
    if noted is None and latest.name:  # of a config that names them in its own way
        return [file for file in (folder / latest.name,) if file.is_file()]
    matches = {file: _NAME.fullmatch(file.name) for file in folder.glob('*.pth')}
    return sorted(
        (file for file, match in matches.items() if match),
        key=lambda file: (
            noted is not None and matches[file]['kind'] == noted['kind'],
            int(matches[file]['number']),
        ),
        reverse=True,
    )


class WholeFileBackend(LocalBackend):
    """mmengine's local files, written under another name first and renamed when complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; what had its name before stays until the new one is on the disk.

        Args:
            obj: The content.
            filepath: Where it goes; its folder is made if need be.

        Raises:
            UserError: If the disk is full or does not take the file.
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
            raise UserError(_cannot_save(path, len(obj), error)) from error


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
        f'{message} Earlier checkpoints are untouched. Make room, keep fewer of them '
        '(default_hooks.checkpoint.max_keep_ckpts), then go on with --resume.'
    )
