"""Trainings whose random numbers depend on where they are, not on how they got there.

A generator's state is lost when a process is killed, and mmengine keeps none of it in its
checkpoints: a resumed training draws other crops, drops other paths, and ends elsewhere. Here the
generators are seeded anew for each sample and each iteration, from the seed of the training and
the place in it. A resumed training then continues as if it had never stopped, on a CPU to the
bit, and it finds its place in the data by counting instead of by loading what it has seen.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from ..errors import DataError
from .config import warn

SAMPLES, ITERATIONS = 0, 1
"""The two sequences of seeds: samples are drawn ahead of the iterations that use them."""

_NOTE = 'hiera_mm_place'
"""The name of a training's place in its data, in mmengine's message hub, which checkpoints keep."""


def seed_everything(*place: int) -> None:
    """Seed Python's, numpy's and torch's generators from whole numbers that name a place."""
    words = np.random.SeedSequence(place).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave Python's, numpy's and torch's generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class SeededBatch(list):
    """The indices of a batch; each seeds the generators as it is handed out.

    A data loader goes through the indices where it loads the samples, in a worker process or not,
    so that each sample's augmentation starts from its own seed.

    Args:
        indices: What the batch sampler gave.
        place: The numbers that name the batch.
    """

    def __init__(self, indices: list[Any], place: tuple[int, ...]) -> None:
        super().__init__(indices)
        self.place = place

    def __iter__(self) -> Iterator[Any]:
        for position in range(len(self)):
            seed_everything(*self.place, position)
            yield self[position]

    def __reduce__(self) -> tuple[Any, ...]:
        # The list's own way would go through the indices here, in the main process.
        return SeededBatch, ([self[i] for i in range(len(self))], self.place)


class PlacedBatches:
    """A batch sampler whose batches know their place, and that can begin anywhere.

    Args:
        batches: The batch sampler to draw from.
        seed: The training's seed.

    Attributes:
        epoch: The pass over the data that comes next.
        start: Batches that are left out before the first one; a pass that is too short for all of
            them leaves the rest to the next.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self._batches = batches
        self._seed = seed
        self.epoch = 0
        self.start = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):  # also while being copied, when there is nothing to ask yet
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        place = (SAMPLES, self._seed, get_rank(), self.epoch)
        count = 0
        for count, indices in enumerate(self._batches, start=1):
            if count > self.start:
                yield SeededBatch(indices, (*place, count))
        if count == 0:  # going on would never end
            raise DataError(
                'The training data gives no batch: either every image was filtered out, or they '
                'are fewer than train_dataloader.batch_size and drop_last leaves them out.'
            )
        self.start = max(0, self.start - count)


def _placed(loader: DataLoader, seed: int) -> DataLoader:
    """Return a loader like the given one, with `PlacedBatches` in place of its batch sampler."""
    return DataLoader(
        loader.dataset,
        batch_sampler=PlacedBatches(loader.batch_sampler, seed),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


class _Endless:
    """Batches of one pass over the data after the other; none is loaded before it is asked for.

    Args:
        loader: From `_placed`.
        start: Batches to leave out, over all passes.
    """

    def __init__(self, loader: DataLoader, start: int) -> None:
        self._unasked = start
        self._batches = self._all(loader, start)

    def skip_iter(self, count: int) -> None:
        """Be told of batches to leave out, as newer versions of mmengine do."""
        self._unasked -= count

    def __next__(self) -> Any:
        if self._unasked > 0:  # older versions ask for each batch that they leave out
            self._unasked -= 1
            return None
        return next(self._batches)

    @staticmethod
    def _all(loader: DataLoader, start: int) -> Iterator[Any]:
        batches = loader.batch_sampler
        batches.start = start
        while True:
            sampler = getattr(batches, 'sampler', None)
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(batches.epoch)
            yield from loader
            batches.epoch += 1


class _Idle:
    """Stands in for a loader that is not to start yet."""

    def __init__(self, loader: DataLoader) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Seeding(BaseLoop):
    """What both loops do: seed each iteration, and note in checkpoints what is trained on."""

    def run(self) -> Any:
        """Train; say so if a resumed training goes on with other data, or is at its end."""
        data, noted = self._data(), self._noted()
        changes = [
            f'{name} changed from {noted[name]} to {value}'
            for name, value in data.items()
            if noted.get(name, value) != value
        ]
        if changes:
            warn(
                f'Since the checkpoint was saved, {", ".join(changes)}. The training goes '
                f'on after iteration {self.iter} of now {self.max_iters}, with the learning rate '
                'and the schedule of the checkpoint.'
            )
        if self.iter >= self.max_iters:
            warn(
                f'The training is complete: {self.iter} of {self.max_iters} iterations are done. '
                'To go on, raise max_epochs or max_iters in train_cfg.'
            )
        # The place in an epoch is noted too, and means nothing in other data.
        self.runner.message_hub.update_info(_NOTE, data if changes else {**noted, **data})
        return super().run()

    def run_iter(self, *args: Any) -> None:
        """Train for one iteration."""
        seed_everything(ITERATIONS, self.runner.seed, get_rank(), self._iter)
        super().run_iter(*args)

    def _data(self) -> dict[str, int | None]:
        """Return what a place in the data depends on, by the names that users know it by."""
        return {
            'the number of images': len(self.dataloader.dataset),
            'batch_size': getattr(self.dataloader.batch_sampler, 'batch_size', None),
            'the number of processes': get_world_size(),
        }

    def _noted(self) -> dict[str, Any]:
        """Return what was noted last, by this training or in the checkpoint it goes on from."""
        return self.runner.message_hub.get_info(_NOTE) or {}


class ExactIterBasedTrainLoop(_Seeding, IterBasedTrainLoop):
    """`IterBasedTrainLoop` that continues exactly where its checkpoint was saved."""

    def __init__(self, runner: Any, dataloader: DataLoader, **options: Any) -> None:
        # The parent's constructor may start the workers, before it is known where to begin.
        super().__init__(runner, _Idle(dataloader), **options)
        self.dataloader = dataloader
        self.fast_forward_on_resume = False  # of newer versions: would forget the place

    def run(self) -> Any:
        """Train."""
        self.dataloader_iterator = _Endless(self.dataloader, self._iter)
        return super().run()


class ExactEpochBasedTrainLoop(_Seeding, EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` that continues exactly where its checkpoint was saved.

    With other data than before, an epoch that was under way begins anew, as with mmengine.
    """

    @property
    def max_iters(self) -> int:
        """Iterations of the whole training; epochs before a change of the data had others."""
        return self._began() + (self._max_epochs - self._epoch) * len(self.dataloader)

    def run_epoch(self) -> None:
        """Train for one epoch, or for the rest of one."""
        began = self._began()
        note = {**self._data(), 'epoch': self._epoch, 'began': began}
        self.runner.message_hub.update_info(_NOTE, note)
        batches = self.dataloader.batch_sampler
        batches.epoch = self._epoch
        batches.start = self._iter - began
        super().run_epoch()

    def _began(self) -> int:
        """Return at which iteration the current epoch began, or begins."""
        noted = self._noted()
        under_way = {**self._data(), 'epoch': self._epoch}.items() <= noted.items()
        return noted['began'] if under_way else self._iter


def use_exact_loop(runner: Any) -> None:
    """Give a runner that is about to train a loop that can be resumed exactly.

    Loops other than mmengine's two, and data without an index, stay as they are.

    Args:
        runner: mmengine's runner, built and not yet training.
    """
    cfg = copy.deepcopy(runner._train_loop)  # the loop's config until the training begins
    if not isinstance(cfg, dict):
        return
    by_epoch = cfg.pop('by_epoch', True)
    kind = cfg.pop('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
    exact = {
        EpochBasedTrainLoop: ExactEpochBasedTrainLoop,
        IterBasedTrainLoop: ExactIterBasedTrainLoop,
    }.get(LOOPS.get(kind) if isinstance(kind, str) else kind)
    if exact is None:
        return
    loader = runner.build_dataloader(
        runner._train_dataloader,
        seed=runner.seed,
        diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
    )
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        runner._train_dataloader = loader
        return
    if not len(loader.dataset):  # some samplers would go on looking for the first index
        raise DataError(
            'The training data is empty: there is no image, or every one was filtered out, as '
            'filter_cfg does with images without objects of the classes.'
        )
    runner._train_loop = exact(runner, _placed(loader, runner.seed), **cfg)
