"""What in the schedule of a training might be a mistake: one line each, before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.optim import ConstantParamScheduler, LinearParamScheduler, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner

from .config import warn


class ScheduleChecks(Hook):
    """Warns once everything is built: only then is it known how long an epoch is."""

    def before_train(self, runner: Runner) -> None:
        """Look at the schedule."""
        for remark in (*_warm_up(runner), *_log(runner), *_checkpoints(runner)):
            warn(remark)


def _warm_up(runner: Runner) -> Iterator[str]:
    """Is the training over before its warm-up is?"""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # of several optimisers
        schedulers = [scheduler for each in schedulers.values() for scheduler in each]
    for scheduler in filter(_rises, schedulers):
        unit = 'epochs' if scheduler.by_epoch else 'iterations'
        length = runner.max_epochs if scheduler.by_epoch else runner.max_iters
        if scheduler.end > length:
            yield (
                f'The warm-up takes {scheduler.end} {unit} and the training {length}: it ends '
                'before it reaches its learning rate. Shorten the warm-up (end in '
                'param_scheduler), or train for longer.'
            )
            return


def _rises(scheduler: _ParamScheduler) -> bool:
    """Whether a scheduler is a warm-up: lower at the start than at its end."""
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.begin == 0 and scheduler.start_factor < scheduler.end_factor
    if isinstance(scheduler, ConstantParamScheduler):
        return scheduler.begin == 0 and scheduler.factor < 1
    return False


def _log(runner: Runner) -> Iterator[str]:
    """Is there less to see than a user waits for?"""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    what = 'an epoch' if by_epoch else 'the training'
    length = len(runner.train_dataloader) if by_epoch else runner.max_iters
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook) and hook.interval > length:
            yield (
                f'The log gets a line every {hook.interval} iterations, and {what} has {length}: '
                f'losses are shown {"once an epoch" if by_epoch else "not at all"}. To see more, '
                'set default_hooks.logger.interval.'
            )


def _checkpoints(runner: Runner) -> Iterator[str]:
    """Are the best checkpoints, and those to resume from, what they seem to be?"""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    length = runner.max_epochs if by_epoch else runner.max_iters
    evaluated = runner.val_loop is not None and getattr(loop, 'val_begin', 1) <= length
    counts = runner.cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        if hook.save_best is not None and not evaluated:
            yield (
                'save_best saves the checkpoint with the best score, and this training evaluates '
                'none: it needs val_dataloader, val_cfg and val_evaluator, and a val_begin that '
                'comes before the end.'
            )
        interval = hook.interval
        if hook.by_epoch and by_epoch:
            interval *= len(runner.train_dataloader)
        if 0 < interval < runner.max_iters and interval % counts:
            yield (
                f'Checkpoints are saved every {interval} iterations, which is no multiple of '
                f'optim_wrapper.accumulative_counts = {counts}. A training resumed from one '
                'loses the gradients added up since the last step and ends slightly elsewhere. '
                'Choose default_hooks.checkpoint.interval to fit.'
            )
