from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from hiera_mm.engine import ConfigError, checkpoints, train
from hiera_mm.engine import config as options
from hiera_mm.weights.reading import read_checkpoint


def test_amp_says_that_it_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(options, 'get_device', lambda: 'cpu')
    with pytest.raises(ConfigError, match='--amp needs a GPU'):
        options.use_amp(Config({'optim_wrapper': {'type': 'OptimWrapper'}}), 'float16')


def test_amp_on_a_gpu(monkeypatch, logged):
    monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
    cfg = Config({'optim_wrapper': {'type': 'OptimWrapper', 'clip_grad': {'max_norm': 1}}})
    options.use_amp(cfg, 'float16')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'float16'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.optim_wrapper.clip_grad.max_norm == 1
    assert not logged
    cfg.optim_wrapper.loss_scale = 512.0
    options.use_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper.loss_scale == 512.0
    assert 'already' in logged[0]
    with pytest.raises(ConfigError, match='this config has a MyWrapper'):
        options.use_amp(Config({'optim_wrapper': {'type': 'MyWrapper'}}), 'float16')


def test_bfloat16_needs_no_scaled_loss(monkeypatch):
    monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
    cfg = Config({'optim_wrapper': {}})
    options.use_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.optim_wrapper.loss_scale == {'enabled': False}


class TestFsdp:
    def test_the_runner_and_its_strategy(self):
        cfg = Config({'launcher': 'pytorch', 'optim_wrapper': {'type': 'AmpOptimWrapper'}})
        options.use_fsdp(cfg)
        assert cfg.runner_type == 'FlexibleRunner'
        assert cfg.strategy.type == 'HieraFSDPStrategy'
        assert cfg.custom_imports['imports'] == ['hiera_mm']
        assert cfg.optim_wrapper.use_fsdp

    def test_once_is_enough(self, logged):
        cfg = Config({'launcher': 'pytorch', 'optim_wrapper': {}})
        options.use_fsdp(cfg)
        options.use_fsdp(cfg)
        assert 'already' in logged[0]

    def test_testing_needs_no_shards(self):
        cfg = Config({'launcher': 'none', 'optim_wrapper': {}})
        options.use_fsdp(cfg)
        options.drop_fsdp(cfg)
        assert 'strategy' not in cfg
        assert 'runner_type' not in cfg

    def test_a_strategy_of_the_config_is_not_overridden(self):
        cfg = Config({'launcher': 'pytorch', 'strategy': {'type': 'DeepSpeedStrategy'}})
        with pytest.raises(ConfigError, match='a strategy of its own'):
            options.use_fsdp(cfg)


class TestEma:
    def test_added_once(self, logged):
        cfg = Config({'custom_hooks': [{'type': 'Other'}]})
        options.use_ema(cfg)
        options.use_ema(cfg)
        assert [hook.type for hook in cfg.custom_hooks] == ['Other', 'EMAHook']
        assert 'already' in logged[0]

    def test_not_of_shards(self):
        with pytest.raises(ConfigError, match='Leave one out'):
            options.use_ema(Config({'strategy': {'type': 'HieraFSDPStrategy'}}))

    def test_the_average_is_saved(self, segmenter, tmp_path):
        task = segmenter.changed(train_cfg__max_iters=2, optim_wrapper__optimizer__lr=1.0)
        train(segmenter.config, work_dir=str(tmp_path), ema=True, cfg_options=task)
        saved = read_checkpoint(tmp_path / 'iter_2.pth')
        name = 'decode_head.conv_seg.weight'
        # What is tested goes by the model's names, what is trained is kept beside it.
        trained = saved['ema_state_dict'][f'module.{name}']
        assert not torch.equal(saved['state_dict'][name], trained)


class TestTrackers:
    def config(self):
        local = {'type': 'LocalVisBackend'}
        return Config({'visualizer': {'type': 'V', 'vis_backends': [local]}})

    def test_added_once(self, monkeypatch):
        monkeypatch.setattr(options, 'find_spec', lambda _: True)
        cfg = self.config()
        options.use_trackers(cfg, ['tensorboard', 'wandb', 'tensorboard'])
        options.use_trackers(cfg, ['wandb'])
        found = [backend.type for backend in cfg.visualizer.vis_backends]
        assert found == ['LocalVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']

    def test_one_that_is_not_installed(self, monkeypatch):
        monkeypatch.setattr(options, 'find_spec', lambda name: name != 'wandb' or None)
        with pytest.raises(ConfigError, match='pip install wandb'):
            options.use_trackers(self.config(), ['tensorboard', 'wandb'])

    def test_tensorboard_is_written(self, segmenter, tmp_path):
        pytest.importorskip('tensorboard')
        task = segmenter.changed(default_hooks__logger__interval=1)
        train(segmenter.config, work_dir=str(tmp_path), track=['tensorboard'], cfg_options=task)
        (events,) = tmp_path.rglob('events.out.tfevents*')
        assert b'decode.loss_ce' in events.read_bytes()


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'enable': False, 'base_batch_size': 16}})
    options.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ConfigError, match='base_batch_size=16'):
        options.use_auto_scale_lr(Config({}))


class TestResume:
    def test_nothing_there_keeps_the_start(self, tmp_path, logged):
        cfg = Config({'work_dir': str(tmp_path), 'load_from': 'start.pth', 'resume': False})
        checkpoints.use_resume(cfg, 'auto')
        assert cfg.load_from == 'start.pth'
        assert not cfg.resume
        assert 'starts anew' in logged[0]

    def test_latest(self, tmp_path):
        torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'epoch_2.pth')
        cfg = Config({'work_dir': str(tmp_path), 'load_from': 'start.pth'})
        checkpoints.use_resume(cfg, 'auto')
        assert cfg.resume
        assert cfg.load_from == str(tmp_path / 'epoch_2.pth')

    def test_named(self, tmp_path):
        cfg = Config({'work_dir': str(tmp_path)})
        checkpoints.use_resume(cfg, 'a.pth')
        assert cfg.resume
        assert cfg.load_from == 'a.pth'


def drawing_config(scope: str) -> Config:
    hooks = {'visualization': {'type': 'SomeHook'}}
    return Config({'default_scope': scope, 'default_hooks': hooks, 'visualizer': {'type': 'V'}})


def test_drawing():
    cfg = drawing_config('mmdet')
    options.use_drawing(cfg, show=True, show_dir='d', wait_time=3)
    expected = dict(type='SomeHook', draw=True, show=True, wait_time=3, test_out_dir='d')
    assert cfg.default_hooks.visualization.to_dict() == expected
    cfg = drawing_config('mmseg')
    options.use_drawing(cfg, show=False, show_dir='d', wait_time=3)
    assert cfg.default_hooks.visualization.to_dict() == dict(type='SomeHook', draw=True, interval=1)
    assert cfg.visualizer.save_dir == 'd'
    with pytest.raises(ConfigError, match='visualization=dict'):
        options.use_drawing(Config({}), show=True, show_dir=None, wait_time=3)


def tta_config(scope: str) -> Config:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    dataset = dict(type='RepeatDataset', dataset=dict(type='CocoDataset', pipeline=pipeline))
    return Config(
        dict(default_scope=scope, model=dict(type='M'), test_dataloader=dict(dataset=dataset))
    )


def test_tta_has_a_default_for_detection():
    cfg = tta_config('mmdet')
    options.use_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module.type == 'M'
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in pipeline] == ['LoadImageFromFile', 'TestTimeAug']


def test_tta_needs_settings_for_segmentation():
    cfg = tta_config('mmseg')
    with pytest.raises(ConfigError, match='no tta_model and no tta_pipeline'):
        options.use_tta(cfg)
    cfg.tta_model = dict(type='SegTTAModel')
    cfg.tta_pipeline = [dict(type='TestTimeAug')]
    options.use_tta(cfg)
    assert cfg.model.type == 'SegTTAModel'
    assert cfg.model.module.type == 'M'
    assert cfg.test_dataloader.dataset.dataset.pipeline[0].type == 'TestTimeAug'
