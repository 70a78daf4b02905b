"""The validation is tried before the training: faults show, and nothing else does."""

from __future__ import annotations

import copy
import os
import random

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads import FCNHead
from mmseg.models.utils import resize
from torch.utils.data import DataLoader

from hiera_mm.engine import ConfigError
from hiera_mm.engine.rehearsal import Rehearsal, _first_batch


@TRANSFORMS.register_module()
class LoadNothing(BaseTransform):
    def transform(self, results):
        raise ValueError('no image:\nthe second line')


@MODELS.register_module()
class WholeImageHead(FCNHead):
    """Predicts for the whole image, also where it is shown a part of it."""

    def __init__(self, pool_scales, **options):
        super().__init__(**options)

    def predict_by_feat(self, seg_logits, batch_img_metas):
        return resize(seg_logits, size=batch_img_metas[0]['ori_shape'])


SLIDE = dict(
    model__decode_head__type='WholeImageHead',
    model__decode_head__in_channels=16,
    model__decode_head__in_index=0,
    model__decode_head__pool_scales=None,
    model__test_cfg=dict(mode='slide', crop_size=(96, 96), stride=(64, 64)),
)


@pytest.fixture
def ready(segmenter, tmp_path, monkeypatch):
    """A runner as it is before its first iteration, without having been tried."""
    monkeypatch.setattr(Runner, 'train', lambda self: None)
    runner = segmenter.train(tmp_path, dict(skip_checks=True))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    return runner


def test_a_fault_of_the_first_validation_is_found_before_the_training(segmenter, tmp_path):
    with pytest.raises(ConfigError) as caught:
        segmenter.train(tmp_path, **SLIDE)
    message = str(caught.value)
    assert 'would fail in its model' in message
    assert 'The size of tensor a' in message
    assert '--skip-checks' in message
    assert not list(tmp_path.glob('*.pth'))


def test_it_can_be_left_out(segmenter, tmp_path):
    with pytest.raises(RuntimeError, match='The size of tensor a'):
        segmenter.train(tmp_path, dict(skip_checks=True), **SLIDE)
    assert (tmp_path / 'iter_1.pth').is_file()  # trained, and then


@pytest.mark.parametrize(
    ('task', 'part', 'step'),
    [
        ('detector', 'val_dataloader', dict(type='LoadNothing')),
        ('segmenter', 'val_evaluator', dict(type='LoadImageFromFile')),
    ],
)
def test_the_part_that_fails_is_named(task, part, step, request, tmp_path):
    """In the one no image is loaded, by another process; in the other no label map."""
    pack = dict(type='PackDetInputs' if task == 'detector' else 'PackSegInputs')
    with pytest.raises(
        ConfigError, match=rf'would fail in its {part}.*, line \d+\).*--skip-ch'
    ) as caught:
        request.getfixturevalue(task).train(
            tmp_path,
            val_dataloader__dataset__pipeline=[step, pack],
            val_dataloader__num_workers=int(task == 'detector'),
        )
    if task == 'detector':
        assert 'ValueError: no image: the second line (' in str(caught.value)


class OpensOnce(torch.utils.data.Dataset):
    """Keeps the file open that it reads, as those of LMDB and HDF5 do."""

    def __init__(self):
        self.opened = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.opened = self.opened or os.getpid()
        return self.opened


def test_no_file_is_opened_for_the_processes_that_load_later():
    loader = DataLoader(OpensOnce(), num_workers=2, batch_size=2)
    assert os.getpid() not in _first_batch(loader)
    assert os.getpid() not in next(iter(loader))
    assert loader.dataset.opened is None


def test_samples_may_come_without_batches():
    loader = DataLoader(range(3), batch_size=None, collate_fn=lambda sample: ('bare', sample))
    assert _first_batch(loader) == ('bare', 0)


class Collector(IoUMetric):
    """Collects in places of its own, and draws random numbers."""

    def __init__(self, output_dir):
        super().__init__()
        self.output_dir = output_dir
        self.seen = []

    def process(self, data_batch, data_samples):
        super().process(data_batch, data_samples)
        self.seen.extend(data_samples)
        self.last = random.random() + np.random.rand() + torch.rand(1)


def test_no_trace_is_left(ready, tmp_path):
    metric = Collector(str(tmp_path / 'maps'))
    ready.val_loop.evaluator.metrics = [metric]
    ready.val_loop.evaluator.dataset_meta = ready.val_loop.dataloader.dataset.metainfo
    ready.model.backbone.eval()  # some models keep a part so while they train

    def state():
        generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        modes = [module.training for module in ready.model.modules()]
        weights = copy.deepcopy(ready.model.state_dict())
        hub = ready.message_hub.state_dict()
        return str((generators, modes, weights, hub, vars(metric), vars(ready.val_loop.evaluator)))

    hooks, before = ready._hooks, state()
    Rehearsal().before_train(ready)
    assert state() == before
    assert ready._hooks is hooks
    assert not (tmp_path / 'maps').exists()


def test_there_may_be_nothing_to_try(ready, monkeypatch):
    monkeypatch.setattr(ready.model, 'val_step', None)  # would fail
    monkeypatch.setattr(
        type(ready.val_loop.dataloader.batch_sampler), '__iter__', lambda _: iter([])
    )
    Rehearsal().before_train(ready)
    ready._val_loop = None
    Rehearsal().before_train(ready)
