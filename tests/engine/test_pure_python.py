"""Configs in mmengine's pure-Python style, whose types are classes, are treated as the others."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from torch import nn

from hiera_mm.backbone import Hiera
from hiera_mm.engine import config as options
from hiera_mm.engine import predict
from hiera_mm.engine.config import load_config, scope_of, type_name, walk
from hiera_mm.engine.launch import replace_sync_norms
from hiera_mm.errors import ConfigError
from hiera_mm.trial.configs import test_size as size_in_test


@pytest.fixture
def write(tmp_path):
    """Write a config in the pure-Python style, with imports such as ``'torch.nn.GELU'``."""

    def write_config(text: str, *imports: str, folder: Path = tmp_path) -> Path:
        lines = [f'from {name.rpartition(".")[0]} import {name.rpartition(".")[2]}\n'
                 for name in imports]  # fmt: skip
        path = folder / 'pure.py'
        path.write_text(''.join(lines) + text)
        return path

    return write_config


def home_of(kind: Any) -> str:
    """Return the package to import a class from, as one would write it."""
    parts = kind.__module__.split('.')
    modules = ('.'.join(parts[:length]) for length in range(1, len(parts) + 1))
    return next(name for name in modules if hasattr(import_module(name), kind.__name__))


def with_classes(cfg: Config) -> tuple[str, set[str]]:
    """Return a config as text with classes for types, and what this text has to import."""
    init_default_scope(cfg.default_scope)
    toolbox = import_module(f'{cfg.default_scope}.registry')
    registries = [each for each in vars(toolbox).values() if isinstance(each, Registry)]
    registries = [each for each in registries if each.scope == cfg.default_scope]
    cfg.pop('default_scope')
    cfg.pop('custom_imports')  # the import of a class registers it
    text = '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())
    imports = set()
    for name in {node['type'] for node in walk(cfg.to_dict()) if 'type' in node}:
        found = [kind for each in registries if (kind := each.get(name)) is not None]
        for kind in found[:1]:  # mmcv's `nms` is in no registry
            imports.add(f'{home_of(kind)}.{kind.__name__}')
            text = text.replace(f"'type': {name!r}", f"'type': {kind.__name__}")
    return f'{text}\ndefault_scope = None\n', imports


@pytest.mark.parametrize('name', ['detector', 'segmenter'])
def test_train_test_and_predict(name, request, write, shapes, tmp_path):
    task = request.getfixturevalue(name)
    cfg = Config.fromfile(task.config)
    cfg.merge_from_dict(
        task.changed(train_cfg__max_iters=2, default_hooks__checkpoint__max_keep_ckpts=1)
    )
    text, imports = with_classes(cfg)
    task = replace(task, config=write(text, *imports), options={}, work_dir=tmp_path / 'w')
    runner = task.train(task.work_dir, dict(ema=True))
    assert isinstance(runner.model.backbone, Hiera)
    kinds = [type(hook).__name__ for hook in runner.hooks]
    assert {'KeepingCheckpointHook', 'EMAHook'} <= set(kinds)
    assert type(runner.train_loop).__name__ == 'ExactIterBasedTrainLoop'
    how = dict(checkpoint=str(task.work_dir / 'iter_2.pth'))
    assert task.test(tmp_path / 'tested', how)
    image = next(shapes.images('validation').iterdir())
    saved = task.work_dir / 'pure.py'  # in which the classes have become text
    found = predict(saved, how['checkpoint'], image, tmp_path / 'drawn', device='cpu')
    assert len(found.drawings) == 1


TYPES = """
model = dict(
    type=MaskRCNN,
    backbone=dict(type=Hiera, arch='auto', init_cfg=dict(type=PretrainedInit, checkpoint='c')),
    neck=dict(norm_cfg=dict(type=SyncBatchNorm), own=dict(type='mmdet.MMSyncBN')),
)
strategy = dict(type=HieraFSDPStrategy)
optim_wrapper = dict(type=AmpOptimWrapper)
custom_hooks = [dict(type=EMAHook)]
visualizer = dict(vis_backends=[dict(type=TensorboardVisBackend)])
test_dataloader = dict(dataset=dict(pipeline=[dict(type=Resize, scale=(640, 480))]))
"""


@pytest.fixture
def cfg(write):
    path = write(
        TYPES,
        'mmdet.models.MaskRCNN', 'hiera_mm.backbone.Hiera', 'mmengine.model.PretrainedInit',
        'torch.nn.SyncBatchNorm', 'hiera_mm.engine.fsdp_strategy.HieraFSDPStrategy',
        'mmengine.optim.AmpOptimWrapper', 'mmengine.hooks.EMAHook',
        'mmengine.visualization.TensorboardVisBackend', 'mmdet.datasets.transforms.Resize',
    )  # fmt: skip
    return load_config(path)


def test_options_see_what_the_config_has(cfg, monkeypatch, logged):
    monkeypatch.setattr(options, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(options, 'find_spec', lambda _: True)
    options.use_amp(cfg, 'float16')
    options.use_fsdp(cfg)
    assert ['already' in message for message in logged] == [True, True]
    options.use_trackers(cfg, ['tensorboard'])
    assert len(cfg.visualizer.vis_backends) == 1
    options.drop_fsdp(cfg)
    assert 'strategy' not in cfg
    options.use_ema(cfg)
    assert len(cfg.custom_hooks) == 1
    options.use_fsdp(cfg)
    assert cfg.optim_wrapper.use_fsdp
    assert replace_sync_norms(cfg.model) == 2
    assert size_in_test(cfg) == (480, 640)


def test_architecture_of_weights_is_written_down(cfg, monkeypatch):
    monkeypatch.setattr(options, '_first_variant', lambda _: options.VARIANTS['tiny'])
    options.resolve_arch(cfg)
    assert cfg.model.backbone.arch == 'tiny'


def test_a_name_that_is_not_there_is_a_mistake_in_the_config(write):
    with pytest.raises(ConfigError, match=r'pure\.py cannot be read: .*NoSuchLayer'):
        load_config(write('model = dict(type=NoSuchLayer)', 'torch.nn.NoSuchLayer'))


def test_names_of_types():
    for kind in (nn.GELU, 'GELU', 'mmdet.GELU', 'torch.nn.GELU'):
        assert type_name(dict(type=kind)) == 'GELU'
    for nothing in ({}, None, dict(type=None)):
        assert type_name(nothing) == ''


def test_scope_is_that_of_the_model(cfg):
    assert cfg.default_scope == 'mmdet'
    own = type('Own', (cfg.model.type,), dict(__module__='somewhere'))
    for kind in (own, 'mmdet.models.MaskRCNN', 'mmdet.MaskRCNN'):
        assert scope_of(dict(model=dict(type=kind))) == 'mmdet'
    assert scope_of(dict(model=dict(type=own), default_scope='mmpose')) == 'mmpose'
    for kind in (nn.GELU, 'MaskRCNN', None):
        assert scope_of(dict(model=dict(type=kind))) is None
