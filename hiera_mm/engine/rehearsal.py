"""One batch through the validation before the training, so that its faults show at once."""

from __future__ import annotations

import copy
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, IterableDataset

from ..errors import ConfigError
from .loops import kept_random_state

SKIP_CHECKS = '--skip-checks (skip_checks=True in Python)'

# Where metrics keep the places of files that they write while they collect predictions.
_PLACES = ('outfile_prefix', 'output_dir', 'seg_out_dir')
# By the part that fails, what to look at.
_ADVICE = {
    'val_dataloader': 'Look at the paths and the pipeline of val_dataloader.dataset: does the '
    'data have what it loads (masks, if the model has a mask head)?',
    'model': 'Do the in_channels of neck and heads fit what comes before them? Do crops and '
    "padding fit together (the model's test_cfg and data_preprocessor, the pipeline of "
    'val_dataloader.dataset)?',
    'val_evaluator': 'Look at the metrics of val_evaluator, and whether the pipeline of '
    'val_dataloader.dataset loads and packs what they need.',
}


class Rehearsal(Hook):
    """Takes the first batch of the validation as the validation will, and leaves no trace.

    It comes when everything is built and the weights are loaded. All processes take the same
    batch: they fail together, and those that hold shards of one model stay in step.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Any) -> None:
        """Try the validation.

        Raises:
            ConfigError: If it fails.
        """
        loop = runner.val_loop
        if not hasattr(loop, 'run_iter') or not hasattr(loop, 'evaluator'):
            return  # there is no validation, or one of an unknown kind
        start = time.perf_counter()
        part = 'val_dataloader'
        process = loop.evaluator.process

        def collect(*args: Any, **kwargs: Any) -> None:
            nonlocal part
            part = 'val_evaluator'
            process(*args, **kwargs)

        with kept_random_state(), _restored(runner, loop):
            try:
                batch = _first_batch(loop.dataloader)
                if batch is None:
                    return
                part = 'model'
                loop.evaluator.process = collect
                runner.model.eval()
                loop.run_iter(0, batch)
            except Exception as error:  # whatever a toolbox may raise
                raise ConfigError(
                    f'The first validation would fail in its {part}, as a trial with one batch '
                    f'shows: {_describe(error)}. '
                    f'{_ADVICE[part]} To train all the same: {SKIP_CHECKS}.'
                ) from error
        seconds = time.perf_counter() - start
        runner.logger.info(f'The validation was tried with its first batch, in {seconds:.1f} s.')


def _first_batch(loader: DataLoader) -> Any:
    """Load the batch with which the first process will begin; None if there is no data."""
    # Where the validation loads in other processes, so does this: files that are opened here, of
    # LMDB or HDF5, could not be read in those.
    options = dict(
        collate_fn=loader.collate_fn,
        num_workers=min(1, loader.num_workers),
        multiprocessing_context=loader.multiprocessing_context,
        worker_init_fn=loader.worker_init_fn,
    )
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        options['batch_size'] = loader.batch_size
    else:
        options['batch_sampler'] = [list(next(iter(loader.batch_sampler), []))]
        broadcast_object_list(options['batch_sampler'])
        if not options['batch_sampler'][0]:
            return None
    return next(iter(DataLoader(loader.dataset, **options)), None)


@contextmanager
def _restored(runner: Any, loop: Any) -> Iterator[None]:
    """Keep hooks away; then undo what happened to the model's modes, the evaluator and metrics."""
    modes = [(module, module.training) for module in runner.model.modules()]
    hooks, runner._hooks = runner._hooks, []  # they draw and log
    changed = [loop.evaluator, *getattr(loop.evaluator, 'metrics', [])]
    before = [dict(vars(item)) for item in changed]
    with tempfile.TemporaryDirectory() as folder:
        for number, metric in enumerate(changed[1:]):
            for name, value in before[number + 1].items():
                if isinstance(value, list | dict | set):  # others, as annotations, can be large
                    setattr(metric, name, copy.deepcopy(value))
                elif name in _PLACES and value:
                    place = Path(folder, f'{number}_{name}')
                    place.mkdir()
                    setattr(metric, name, str(place))
        try:
            yield
        finally:
            for item, attributes in zip(changed, before, strict=True):
                vars(item).clear()
                vars(item).update(attributes)
            runner._hooks = hooks
            for module, training in modes:
                module.training = training


def _describe(error: Exception) -> str:
    """Return what was raised, and where."""
    there = str(error).splitlines()
    if there and 'in DataLoader worker process' in there[0]:  # what follows is its traceback
        file, line = re.findall(r'File "(.+)", line (\d+)', str(error))[-1]
        code = max(number for number, text in enumerate(there) if text.startswith('  '))
        return f'{" ".join(there[code + 1 :])} ({file}, line {line})'
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__}: {error} ({place.filename}, line {place.lineno})'
