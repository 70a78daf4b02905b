"""A training that was stopped anywhere and resumed ends as one that was not, to the bit."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from hiera_mm.engine import DataError
from hiera_mm.engine.loops import PlacedBatches, SeededBatch, seed_everything
from hiera_mm.weights.reading import read_checkpoint

from .conftest import Task


class Stopped(Exception):
    pass


@HOOKS.register_module()
class StopOnce(Hook):
    """Ends a training after an iteration, as a fault would."""

    priority = 'LOWEST'

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise Stopped


def draws():
    return [random.random(), np.random.rand(), torch.rand(1).item()]


class Noise(torch.utils.data.Dataset):
    """Samples of nothing but their index and what the generators give."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([index, *draws()], dtype=torch.float64)


def batches(epoch=0, start=0, seed=1, workers=0):
    placed = PlacedBatches(
        torch.utils.data.BatchSampler(range(5), batch_size=2, drop_last=False), seed
    )
    placed.epoch, placed.start = epoch, start
    return list(DataLoader(Noise(), batch_sampler=placed, num_workers=workers))


def test_generators_are_seeded_by_place():
    seed_everything(1, 2)
    first = draws()
    assert draws() != first
    seed_everything(1, 2)
    assert draws() == first
    for other in ((1, 3), (2, 2), (1, 2, 1)):
        seed_everything(*other)
        assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_a_batch_seeds_where_it_is_loaded_and_nowhere_else():
    seed_everything(7)
    state = torch.get_rng_state()
    batch = pickle.loads(pickle.dumps(SeededBatch([4, 2], (1,))))
    assert torch.equal(torch.get_rng_state(), state)
    seen = [(index, draws()) for index in batch]
    assert [index for index, _ in seen] == [4, 2]
    assert seen == [(index, draws()) for index in SeededBatch([4, 2], (1,))]


def test_samples_do_not_depend_on_who_loads_them():
    here = batches()
    there = batches(workers=2)
    assert [batch[:, 0].tolist() for batch in here] == [[0, 1], [2, 3], [4]]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)
    noise = torch.cat(here)[:, 1:].flatten()
    assert len(noise.unique()) == noise.numel()


def test_batches_begin_anywhere():
    whole = batches(epoch=3)
    for start in (1, 2, 3):
        rest = batches(epoch=3, start=start)
        assert len(rest) == 3 - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert not torch.equal(batches(epoch=4)[0], whole[0])
    assert not torch.equal(batches(epoch=3, seed=2)[0], whole[0])


def test_data_without_a_batch_is_refused():
    empty = PlacedBatches(torch.utils.data.BatchSampler(range(1), 2, drop_last=True), seed=1)
    with pytest.raises(DataError, match='gives no batch'):
        list(empty)


SCHEDULES = {
    'iterations': """
train_cfg = dict(max_iters=6)
train_dataloader = dict(num_workers=1, persistent_workers=True)
default_hooks = dict(checkpoint=dict(interval=2))
""",
    'iterations, and ends of epochs': """
train_cfg = dict(max_iters=6)
train_dataloader = dict(sampler=dict(type='DefaultSampler'), **alone)
default_hooks = dict(checkpoint=dict(interval=2))
""",
    'epochs': """
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3)
param_scheduler = None
train_dataloader = dict(sampler=dict(type='DefaultSampler'), **alone)
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=True, interval=1)
)
""",
    'epochs, saved inside them': """
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=2)
param_scheduler = None
train_dataloader = dict(sampler=dict(type='DefaultSampler'), **alone)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
""",
}


def scheduled(task: Task, folder: Path, schedule: str) -> Task:
    """A task with a schedule of its own."""
    config = folder / 'config.py'
    alone = 'alone = dict(num_workers=0, persistent_workers=False)'
    config.write_text(f'{alone}\n_base_ = {str(task.config)!r}\n{schedule}')
    replaced = ('train_cfg', 'default_hooks', 'train_dataloader.num', 'train_dataloader.persistent')
    options = {key: value for key, value in task.options.items() if not key.startswith(replaced)}
    return replace(task, config=config, options=options)


STOPS = {'epochs, saved inside them': 1}
"""After which iteration the training is stopped, where it is not the last but one."""


@pytest.mark.parametrize(
    ('kind', 'schedule'),
    [
        ('segmenter', 'iterations, and ends of epochs'),
        ('segmenter', 'epochs, saved inside them'),
        pytest.param('segmenter', 'epochs', marks=pytest.mark.slow),
        pytest.param('segmenter', 'iterations', marks=pytest.mark.slow),
        pytest.param('detector', 'iterations', marks=pytest.mark.slow),
    ],
)
def test_a_resumed_training_ends_the_same(request, tmp_path, kind, schedule):
    task = scheduled(request.getfixturevalue(kind), tmp_path, SCHEDULES[schedule])
    options = {**task.options, 'model.backbone.drop_path_rate': 0.3, 'randomness.seed': None}
    if kind == 'detector':
        options['train_dataloader.batch_size'] = 1
    task = replace(task, options=options)
    stop = dict(type='StopOnce', after=STOPS.get(schedule, 5))
    with pytest.raises(Stopped):
        task.train(tmp_path / 'resumed', custom_hooks=[stop])
    resumed = task.train(tmp_path / 'resumed', dict(resume='auto'))
    whole = task.train(tmp_path / 'whole', randomness__seed=resumed.seed)
    assert resumed.iter == whole.iter
    expected = last_weights(tmp_path / 'whole')
    found = last_weights(tmp_path / 'resumed')
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def last_weights(work_dir: Path) -> dict[str, torch.Tensor]:
    path = Path((work_dir / 'last_checkpoint').read_text())
    return read_checkpoint(work_dir / path.name)['state_dict']


CHANGED = {'train_dataloader.batch_size': 2, 'train_dataloader.dataset.indices': 3}
"""A larger batch and fewer images: 2 iterations an epoch instead of 4."""

STOP_AFTER_3 = dict(type='StopOnce', after=3)


def test_epochs_of_other_data_are_trained_whole(segmenter, tmp_path, logged):
    task = scheduled(segmenter, tmp_path, SCHEDULES['epochs'])
    options = {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2}
    task = replace(task, options={**task.options, **options})
    work_dir, auto = tmp_path / 'w', dict(resume='auto')
    with pytest.raises(Stopped):
        task.train(work_dir, custom_hooks=[dict(type='StopOnce', after=6)])
    assert not told(logged)

    task = replace(task, options={**task.options, **CHANGED})
    with pytest.raises(Stopped):
        task.train(work_dir, auto, custom_hooks=[dict(type='StopOnce', after=7)])
    (warning,) = told(logged)
    assert 'number of images changed from 4 to 3, batch_size changed from 1 to 2' in warning
    assert 'after iteration 4 of now 8' in warning
    resumed = task.train(work_dir, auto)  # of the data as it is now: nothing more to say
    assert told(logged) == [warning]
    assert (resumed.iter, resumed.max_iters) == (8, 8)
    first = read_checkpoint(work_dir / 'epoch_1.pth')['state_dict']
    second = read_checkpoint(work_dir / 'epoch_2.pth')['state_dict']
    at_once = dict(resume=str(work_dir / 'epoch_1.pth'))
    task.train(tmp_path / 'at-once', at_once)
    expected, found = last_weights(tmp_path / 'at-once'), last_weights(work_dir)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_an_epoch_under_way_begins_anew_with_other_data(segmenter, tmp_path, logged):
    task = scheduled(segmenter, tmp_path, SCHEDULES['epochs, saved inside them'])
    with pytest.raises(Stopped):
        task.train(tmp_path / 'w', train_dataloader__batch_size=1, custom_hooks=[STOP_AFTER_3])
    resumed = task.train(tmp_path / 'w', dict(resume='auto'))
    assert len(told(logged)) == 1
    assert resumed.iter == 3 + 2 * 2  # both epochs, of 2 iterations each


def test_iterations_on_other_data_are_trained_to_the_end(segmenter, tmp_path, logged):
    task = scheduled(segmenter, tmp_path, SCHEDULES['iterations, and ends of epochs'])
    with pytest.raises(Stopped):
        task.train(tmp_path / 'w', train_dataloader__batch_size=1, custom_hooks=[STOP_AFTER_3])
    task = replace(task, options={**task.options, **CHANGED})
    resumed = task.train(tmp_path / 'w', dict(resume='auto'))
    (warning,) = told(logged)
    assert 'after iteration 2 of now 6' in warning
    assert resumed.iter == 6
    task.train(tmp_path / 'w', dict(resume='auto'))
    assert any('The training is complete: 6 of 6 iterations' in line for line in logged)
    before = read_checkpoint(tmp_path / 'w' / 'iter_2.pth')['state_dict']
    after = last_weights(tmp_path / 'w')
    assert any(not torch.equal(before[name], after[name]) for name in before)


def told(logged: list[str]) -> list[str]:
    """The warnings that the data are not as they were."""
    return [message for message in logged if message.startswith('Since the checkpoint')]
