"""The timing of the masked autoencoder."""

from __future__ import annotations

import csv

import pytest

from benchmarks.studies import mae_speed
from hiera_mm.errors import UserError
from hiera_mm.pretrain import HieraMAE


@pytest.mark.slow
def test_it_ends_in_a_table_and_a_picture(run_script, tmp_path):
    done = run_script('mae_speed', '--batch', 1, '--rounds', 1, '--warmups', 0, '--threads', 1,
                      '--work-dir', tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / 'mae_speed.csv').open()))
    ratios = [float(row['ratio']) for row in rows if row['what'] == 'encoder']
    assert len(ratios) == len(mae_speed.RATIOS)
    assert ratios[0] == 1 > ratios[-1]
    assert {'the release', 'hiera_mm'} <= {row['case'] for row in rows if row['what'] == 'step'}
    assert (tmp_path / 'mae_speed.png').stat().st_size > 1000
    assert '| step ' in done.stdout


def test_another_loss_is_not_timed(small_arch):
    import torch

    models = {name: HieraMAE(dict(type='Hiera', arch=small_arch), 16, 1, 1) for name in 'ab'}
    models = {'hiera_mm': models['a'], 'other': models['b']}
    models['other'].forward = models['other'].forward_mae
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(UserError, match='the losses differ'):
        mae_speed.compare(models, images)
    models['other'].load_state_dict(models['hiera_mm'].state_dict())
    mae_speed.compare(models, images)
