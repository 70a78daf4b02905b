from __future__ import annotations

import pytest
from mmengine.config import Config

from hiera_mm.engine import ConfigError, options


def test_amp_says_that_it_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(options, 'get_device', lambda: 'cpu')
    with pytest.raises(ConfigError, match='--amp needs a GPU'):
        options.use_amp(Config({'optim_wrapper': {'type': 'OptimWrapper'}}))


def test_amp_on_a_gpu(monkeypatch, logged):
    monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
    cfg = Config({'optim_wrapper': {'type': 'OptimWrapper', 'clip_grad': {'max_norm': 1}}})
    options.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.optim_wrapper.clip_grad.max_norm == 1
    assert not logged
    cfg.optim_wrapper.loss_scale = 512.0
    options.use_amp(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.0
    assert 'already' in logged[0]
    with pytest.raises(ConfigError, match='this config has a MyWrapper'):
        options.use_amp(Config({'optim_wrapper': {'type': 'MyWrapper'}}))


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'enable': False, 'base_batch_size': 16}})
    options.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ConfigError, match='base_batch_size=16'):
        options.use_auto_scale_lr(Config({}))


class TestResume:
    def test_nothing_there_keeps_the_start(self, tmp_path, logged):
        cfg = Config({'work_dir': str(tmp_path), 'load_from': 'start.pth', 'resume': False})
        options.use_resume(cfg, 'auto')
        assert cfg.load_from == 'start.pth'
        assert not cfg.resume
        assert 'starts anew' in logged[0]

    def test_latest(self, tmp_path):
        (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
        cfg = Config({'work_dir': str(tmp_path), 'load_from': 'start.pth'})
        options.use_resume(cfg, 'auto')
        assert cfg.resume
        assert cfg.load_from == '/elsewhere/epoch_2.pth'

    def test_latest_in_a_folder_that_was_moved(self, tmp_path):
        (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
        (tmp_path / 'epoch_2.pth').touch()
        cfg = Config({'work_dir': str(tmp_path)})
        options.use_resume(cfg, 'auto')
        assert cfg.load_from == str(tmp_path / 'epoch_2.pth')

    def test_named(self, tmp_path):
        cfg = Config({'work_dir': str(tmp_path)})
        options.use_resume(cfg, 'a.pth')
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


def test_label_maps_of_every_evaluator():
    cfg = Config({'test_evaluator': [{'type': 'IoUMetric'}, {'type': 'IoUMetric'}]})
    options.save_label_maps(cfg, 'd')
    assert [evaluator.output_dir for evaluator in cfg.test_evaluator] == ['d', 'd']
