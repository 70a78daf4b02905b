"""The demo's configs build, take a training step and predict, and are easily made one's own."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from demo.shapes import SEG_CLASSES, THING_CLASSES

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'demo').rglob('*.py'))


def load(name):
    """Load a config without worker processes, as tests want it."""
    config = Config.fromfile(ROOT / name)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.num_workers = 0
        loader.persistent_workers = False
    config.train_dataloader.batch_size = 2
    return config


def move_data(config, old, new):
    """Replace the data root wherever the config has spelled it out."""
    if isinstance(config, dict):
        for key, value in config.items():
            config[key] = move_data(value, old, new)
    elif isinstance(config, list):
        return [move_data(value, old, new) for value in config]
    elif isinstance(config, str):
        return config.replace(old, new)
    return config


def test_there_are_configs():
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_trains_and_predicts(name, shapes):
    config = load(name)
    move_data(config._cfg_dict, config.data_root, f'{shapes.root}/')
    scope = config.default_scope
    import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    init_default_scope(scope)
    model = import_module(f'{scope}.registry').MODELS.build(config.model)
    model.init_weights()
    assert type(model.backbone).__name__ == 'Hiera'

    batch = next(iter(Runner.build_dataloader(config.train_dataloader)))
    model.train()
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    loss.backward()
    for parameter in model.backbone.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0

    model.eval()
    batch = next(iter(Runner.build_dataloader(config.val_dataloader)))
    with torch.no_grad():
        predictions = model.test_step(batch)
    assert len(predictions) == 1
    for prediction in predictions:
        if scope == 'mmdet':
            masks = np.asarray(prediction.pred_instances.masks)
            assert masks.shape[1:] == prediction.ori_shape
        else:
            assert prediction.pred_sem_seg.data.shape[1:] == prediction.ori_shape
            assert prediction.pred_sem_seg.data.max() < config.num_classes


@pytest.mark.parametrize(
    ('name', 'classes'),
    [
        ('demo/mask-rcnn_hiera-demo_fpn_shapes.py', THING_CLASSES),
        ('demo/upernet_hiera-demo_shapes.py', SEG_CLASSES),
    ],
)
def test_the_demo_knows_the_classes_of_its_data(name, classes):
    assert load(name).classes == classes


@pytest.mark.parametrize('name', CONFIGS)
def test_changing_data_root_and_classes_is_all_it_takes(name, tmp_path):
    text = (ROOT / name).read_text(encoding='utf-8')
    lines = text.splitlines()
    for start, value in (('data_root = ', "'/elsewhere/'"), ('classes = ', "('cat', 'dog')")):
        (index,) = [i for i, line in enumerate(lines) if line.startswith(start)]
        lines[index] = start + value
    text = '\n'.join(lines).replace("'../_base_", f"'{ROOT}/_base_")
    (tmp_path / 'mine.py').write_text(text, encoding='utf-8')
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.num_classes == 2
    dumped = config.pretty_text
    assert 'data/shapes' not in dumped
    assert "'ring'" not in dumped
    for head in find(config.model.to_dict(), 'num_classes'):
        assert head == 2
    for dataset in find(config.to_dict(), 'data_root'):
        assert dataset == '/elsewhere/'
    for info in find(config.to_dict(), 'metainfo'):
        assert tuple(info['classes']) == ('cat', 'dog')


def find(node, key):
    """Yield every value that stands under ``key`` anywhere below ``node``."""
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, dict) and key in node:
        yield node[key]
    if isinstance(node, (dict, list, tuple)):
        for child in children:
            yield from find(child, key)
