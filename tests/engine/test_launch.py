from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from hiera_mm.engine import ConfigError, launch


@pytest.fixture
def joined(monkeypatch):
    """Backends with which a process group was opened, on a machine without GPUs."""
    backends: list[str] = []
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(torch.distributed, 'init_process_group', backends.append)
    monkeypatch.setenv('RANK', '0')
    return backends


def make_config(launcher: str) -> Config:
    norm = dict(type='SyncBN', requires_grad=True)
    return Config(
        dict(
            launcher=launcher,
            env_cfg=dict(dist_cfg=dict(backend='nccl')),
            model=dict(head=[dict(norm_cfg=norm)]),
        )
    )


def test_one_process_needs_nothing_and_has_nothing_to_share(joined):
    cfg = make_config('none')
    launch.prepare_processes(cfg)
    assert cfg.to_dict() == make_config('none').to_dict()
    assert not joined
    cfg.strategy = dict(type='HieraFSDPStrategy')
    with pytest.raises(ConfigError, match='over several processes'):
        launch.prepare_processes(cfg)


def test_processes_without_gpus_are_joined_by_gloo(joined, logged):
    cfg = make_config('pytorch')
    launch.prepare_processes(cfg)
    assert joined == ['gloo']
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.model.head[0].norm_cfg.type == 'BN'
    assert '1 synchronised norms' in logged[0]


def test_processes_that_were_not_started_as_said(joined, monkeypatch):
    with pytest.raises(ConfigError, match='--launcher slurm needs GPUs'):
        launch.prepare_processes(make_config('slurm'))
    monkeypatch.delenv('RANK')
    with pytest.raises(ConfigError, match='torchrun'):
        launch.prepare_processes(make_config('pytorch'))


def test_more_processes_than_gpus(joined, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match='2 processes were started, and there are 1 GPUs'):
        launch.prepare_processes(make_config('pytorch'))
