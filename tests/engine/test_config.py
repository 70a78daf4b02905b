"""A config is read, completed, and changed by the options of the command line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from mmengine.config import Config

from hiera_mm.engine import ConfigError
from hiera_mm.engine import config as options
from hiera_mm.engine.config import load_config, read_overrides
from hiera_mm.network import VARIANTS

REPO = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Write a config; return its path."""

    def write_config(text: str, name: str = 'mine.py') -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write_config


def test_missing_config_names_the_nearest(write, monkeypatch):
    write('x = 1', 'mask_rcnn_mine.py')
    with pytest.raises(ConfigError, match=r'does not exist. Did you mean .*mask_rcnn_mine\.py'):
        load_config(write('x = 1').parent / 'mask-rcnn_mine.py')
    monkeypatch.chdir(REPO)
    with pytest.raises(ConfigError, match=r'configs/demo/upernet_hiera-demo_shapes\.py'):
        load_config('upernet_hiera_demo_shapes.py')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'line 1'),
        ("_base_ = 'nowhere.py'", r'nowhere\.py'),
        ("custom_imports = dict(imports=['no_such_module_at_all'])", 'no_such_module_at_all'),
    ],
)
def test_unreadable_config(write, text, message):
    with pytest.raises(ConfigError, match=rf'mine\.py cannot be read: .*{message}'):
        load_config(write(text))


def test_incomplete_config(write):
    path = write("model = dict(type='MaskRCNN')\nextra = 1")
    with pytest.raises(ConfigError, match=r'no train_cfg, optim_wrapper\. It has extra, model'):
        load_config(path, needs=('model', 'train_cfg', 'optim_wrapper'))


def test_work_dir_comes_from_option_config_or_name(write):
    plain, own = write('model = dict()'), write("model = dict()\nwork_dir = 'w'", 'own.py')
    assert load_config(plain).work_dir == './work_dirs/mine'
    assert load_config(own).work_dir == 'w'
    assert load_config(own, work_dir='v').work_dir == 'v'


def test_options_are_merged(write):
    cfg = load_config(write('model = dict(a=dict(b=1))'), cfg_options={'model.a.b': 2})
    assert cfg.model.a.b == 2


def test_impossible_option(write):
    path = write('model = dict(a=[1])')
    with pytest.raises(ConfigError, match='cannot be read'):
        load_config(path, cfg_options={'model.a.5': 2})
    for text in ('model.a', 'model.a=[1,2'):
        with pytest.raises(ConfigError, match=r'takes KEY=VALUE.*got model\.a'):
            load_config(path, cfg_options=[text])


def test_options_as_they_are_typed():
    typed = ['a.b=1', 'c=x,y', 'd=[1,(2.5,None)]', "e='true'"]
    assert read_overrides(typed) == {
        'a.b': 1, 'c': ['x', 'y'], 'd': [1, (2.5, None)], 'e': True,
    }  # fmt: skip


class TestCustomImports:
    def test_are_added_with_a_warning(self, write, logged):
        cfg = load_config(write("model = dict(backbone=dict(type='Hiera'))"))
        assert cfg.custom_imports['imports'] == ['hiera_mm']
        assert (
            "custom_imports = dict(imports=['hiera_mm'], allow_failed_imports=False)" in logged[0]
        )
        assert 'names Hiera' in logged[0]

    def test_keep_what_was_there(self, write, logged):
        cfg = load_config(
            write("""
                custom_imports = dict(imports='json', allow_failed_imports=False)
                model = dict(backbone=dict(type='Hiera'))
            """)
        )
        expected = {'imports': ['json', 'hiera_mm'], 'allow_failed_imports': False}
        assert cfg.custom_imports.to_dict() == expected

    def test_are_left_alone_where_complete_or_not_needed(self, write, logged):
        cfg = load_config(
            write("""
                custom_imports = dict(imports=['hiera_mm.backbone'])
                model = dict(backbone=dict(type='Hiera'))
            """)
        )
        assert cfg.custom_imports['imports'] == ['hiera_mm.backbone']
        cfg = load_config(write("model = dict(backbone=dict(type='ResNet'))"))
        assert 'custom_imports' not in cfg
        assert not logged


DATA = """
data_root = 'a/'
classes = ('x', 'y')
model = dict()
train_dataloader = dict(dataset=dict(type='CocoDataset', data_root=data_root))
"""


def test_option_that_comes_too_late(write):
    with pytest.raises(ConfigError, match=r'data_root=b/ changes a variable.*still use a'):
        load_config(write(DATA), cfg_options={'data_root': 'b/'})
    with pytest.raises(ConfigError, match='Change classes in a copy'):
        load_config(write(DATA), cfg_options={'classes': ('z',)})


def test_option_that_arrives(write):
    options = {'data_root': 'b/', 'train_dataloader.dataset.data_root': 'b'}
    assert load_config(write(DATA), cfg_options=options).data_root == 'b/'


def test_each_arch_that_weights_tell_is_written_down(monkeypatch):
    monkeypatch.setattr(options, 'variant_of', lambda source, _: VARIANTS[source])

    def auto(source: str, kind: str = 'Hiera') -> dict:
        init = dict(type='Pretrained', checkpoint=source)
        return dict(type=kind, arch='auto', init_cfg=init)

    teachers = [auto('sam2_tiny', 'mmdet.Hiera'), auto('no Hiera', 'Swin')]
    cfg = Config(dict(model=dict(backbone=auto('tiny'), teachers=teachers)))
    options.resolve_arch(cfg)
    assert cfg.model.backbone.arch == 'tiny'
    assert [teacher.arch for teacher in cfg.model.teachers] == ['sam2_tiny', 'auto']


class TestAmp:
    def test_needs_a_gpu(self, monkeypatch):
        monkeypatch.setattr(options, 'get_device', lambda: 'cpu')
        with pytest.raises(ConfigError, match='--amp needs a GPU'):
            options.use_amp(Config({'optim_wrapper': {'type': 'OptimWrapper'}}), 'float16')

    def test_on_a_gpu(self, monkeypatch, logged):
        monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
        cfg = Config({'optim_wrapper': {'clip_grad': {'max_norm': 1}}})
        options.use_amp(cfg, 'float16')
        expected = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
        assert cfg.optim_wrapper.to_dict() == {**expected, 'clip_grad': {'max_norm': 1}}
        assert not logged
        cfg.optim_wrapper.loss_scale = 512.0
        options.use_amp(cfg, 'bfloat16')
        assert cfg.optim_wrapper.loss_scale == 512.0
        assert 'already' in logged[0]
        with pytest.raises(ConfigError, match='this config has a MyWrapper'):
            options.use_amp(Config({'optim_wrapper': {'type': 'MyWrapper'}}), 'float16')

    def test_bfloat16_needs_no_scaled_loss(self, monkeypatch):
        monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
        cfg = Config({'optim_wrapper': {}})
        options.use_amp(cfg, 'bfloat16')
        assert cfg.optim_wrapper.loss_scale == {'enabled': False}


class TestFsdp:
    def test_is_added_once_and_dropped_for_testing(self, logged):
        cfg = Config({'launcher': 'pytorch', 'optim_wrapper': {'type': 'AmpOptimWrapper'}})
        options.use_fsdp(cfg)
        assert cfg.runner_type == 'FlexibleRunner'
        assert cfg.strategy.type == 'HieraFSDPStrategy'
        assert cfg.custom_imports['imports'] == ['hiera_mm']  # also where the model has no Hiera
        assert cfg.optim_wrapper.use_fsdp
        options.use_fsdp(cfg)
        assert 'already' in logged[0]
        with pytest.raises(ConfigError, match='Leave one out'):
            options.use_ema(cfg)
        options.drop_fsdp(cfg)
        assert not {'strategy', 'runner_type'} & set(cfg)

    def test_a_strategy_of_the_config_is_not_overridden(self):
        cfg = Config({'launcher': 'pytorch', 'strategy': {'type': 'DeepSpeedStrategy'}})
        with pytest.raises(ConfigError, match='a strategy of its own'):
            options.use_fsdp(cfg)


def test_ema_is_added_once(logged):
    cfg = Config({'custom_hooks': [{'type': 'Other'}]})
    options.use_ema(cfg)
    options.use_ema(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['Other', 'EMAHook']
    assert 'already' in logged[0]


def test_trackers_are_added_once_and_must_be_installed(monkeypatch):
    cfg = Config({'visualizer': {'vis_backends': [{'type': 'LocalVisBackend'}]}})
    monkeypatch.setattr(options, 'find_spec', lambda _: True)
    options.use_trackers(cfg, ['tensorboard', 'wandb', 'tensorboard'])
    options.use_trackers(cfg, ['wandb'])
    found = [backend.type for backend in cfg.visualizer.vis_backends]
    assert found == ['LocalVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']
    monkeypatch.setattr(options, 'find_spec', lambda name: name != 'wandb' or None)
    with pytest.raises(ConfigError, match='pip install wandb'):
        options.use_trackers(cfg, ['tensorboard', 'wandb'])


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'enable': False, 'base_batch_size': 16}})
    options.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ConfigError, match='base_batch_size=16'):
        options.use_auto_scale_lr(Config({}))


def test_drawing():
    def config(scope: str) -> Config:
        hooks = {'visualization': {'type': 'SomeHook'}}
        return Config({'default_scope': scope, 'default_hooks': hooks, 'visualizer': {}})

    cfg = config('mmdet')
    options.use_drawing(cfg, show=True, show_dir='d', wait_time=3)
    expected = dict(type='SomeHook', draw=True, show=True, wait_time=3, test_out_dir='d')
    assert cfg.default_hooks.visualization.to_dict() == expected
    cfg = config('mmseg')
    options.use_drawing(cfg, show=False, show_dir='d', wait_time=3)
    assert cfg.default_hooks.visualization.to_dict() == dict(type='SomeHook', draw=True, interval=1)
    assert cfg.visualizer.save_dir == 'd'
    with pytest.raises(ConfigError, match='visualization=dict'):
        options.use_drawing(Config({}), show=True, show_dir=None, wait_time=3)


def test_tta_has_a_default_for_detection_and_needs_settings_for_segmentation():
    def config(scope: str) -> Config:
        pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
        dataset = dict(type='RepeatDataset', dataset=dict(type='CocoDataset', pipeline=pipeline))
        return Config(
            dict(default_scope=scope, model=dict(type='M'), test_dataloader=dict(dataset=dataset))
        )

    cfg = config('mmdet')
    options.use_tta(cfg)
    assert (cfg.model.type, cfg.model.module.type) == ('DetTTAModel', 'M')
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in pipeline] == ['LoadImageFromFile', 'TestTimeAug']
    cfg = config('mmseg')
    with pytest.raises(ConfigError, match='no tta_model and no tta_pipeline'):
        options.use_tta(cfg)
    cfg.tta_model = dict(type='SegTTAModel')
    cfg.tta_pipeline = [dict(type='TestTimeAug')]
    options.use_tta(cfg)
    assert (cfg.model.type, cfg.model.module.type) == ('SegTTAModel', 'M')
    assert cfg.test_dataloader.dataset.dataset.pipeline[0].type == 'TestTimeAug'


def test_overrides_that_nothing_reads_get_a_warning(write, logged):
    config = write('max_iters = 720\ntrain_cfg = dict(max_iters=max_iters)\nmodel = dict()')
    load_config(config, cfg_options=['max_iters=2'])
    load_config(config, cfg_options=['trian_cfg.max_iters=2'])
    load_config(config, cfg_options=['train_cfg.max_iters=2', 'find_unused_parameters=True'])
    late, mistyped = logged
    assert '--cfg-options max_iters: mmengine reads no such setting' in late
    assert "trian_cfg: mmengine reads no such setting; did you mean 'train_cfg'?" in mistyped
