"""A training that is killed again and again ends as one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiera_mm.engine.checkpoints import UNFINISHED
from hiera_mm.weights.reading import read_checkpoint

ROOT = Path(__file__).parents[2]

CONFIG = """
train_cfg = dict(max_iters={iters})
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=2, max_keep_ckpts=1),
)
randomness = dict(_delete_=True, seed=3)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)),
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),
    auxiliary_head=dict(in_channels=64),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r})
)
"""


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_resumed(segmenter, shapes, tmp_path, kills):
    iters = 3 * kills
    config = tmp_path / 'config.py'
    text = CONFIG.format(iters=iters, root=str(shapes.root))
    config.write_text(f'_base_ = {str(segmenter.config)!r}\n{text}')
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name('killed.py')), config, tmp_path, str(kills)],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert 'OneDL' not in done.stdout  # which the forks miss, and print as if it was a failure
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report) == kills
    # The one in the middle of a checkpoint left half of it, beside the one before.
    (halved,) = [names for moment, names in report if moment == 'in the middle of a checkpoint']
    assert any(name.endswith(UNFINISHED) for name in halved)
    assert any(name.endswith('.pth') for name in halved)
    whole, killed = (
        read_checkpoint(tmp_path / name / f'iter_{iters}.pth') for name in ('whole', 'killed')
    )
    for name, tensor in whole['state_dict'].items():
        assert torch.equal(killed['state_dict'][name], tensor), name
    for number, state in whole['optimizer']['state'].items():
        for key, tensor in state.items():
            assert torch.equal(killed['optimizer']['state'][number][key], tensor), (number, key)
    assert [path.name for path in (tmp_path / 'killed').glob('*.pth')] == [f'iter_{iters}.pth']
