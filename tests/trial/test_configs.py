from pathlib import Path

import pytest
from mmengine.config import Config

from hiera_mm.engine import config
from hiera_mm.errors import ConfigError, UserError
from hiera_mm.network import VARIANTS
from hiera_mm.trial.configs import (
    configs_in,
    configs_root,
    loads_masks,
    owners,
    parse_size,
    read,
    resolve,
    shipped,
    test_size,
    with_absolute_files,
)

DETECTOR = 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco'
SEGMENTER = 'mmseg/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024'
DEMO = Path(__file__).parents[2] / 'configs' / 'demo'


def test_all_shipped_configs_are_found_and_no_bases():
    found = shipped()
    for name, least in ((DETECTOR, 800), (SEGMENTER, 600)):
        toolbox, _, inside = name.partition('/')
        assert found[name] == configs_root(toolbox) / f'{inside}.py'
        assert sum(other.startswith(f'{toolbox}/') for other in found) >= least
    assert not any('_base_' in Path(name).parts for name in found)


def test_a_config_is_found_by_its_name_and_by_its_path(tmp_path, monkeypatch):
    for name in (DETECTOR, f'{DETECTOR}.py', DETECTOR.rpartition('/')[2]):
        assert resolve(name) == shipped()[DETECTOR]
    (tmp_path / 'mine.py').touch()
    monkeypatch.chdir(tmp_path)
    assert resolve('mine.py') == tmp_path / 'mine.py'


@pytest.mark.parametrize(
    ('wrong', 'nearest'),
    [
        (f'{DETECTOR}o', DETECTOR),
        ('pspnet_r50-d8_4xb2-40k_cityscapes-512x102.py', 'mmseg/pspnet/pspnet_r50-d8'),
    ],
)
def test_of_a_config_that_is_not_there_the_nearest_is_offered(wrong, nearest):
    with pytest.raises(ConfigError, match=f'Did you mean .*{nearest}'):
        resolve(wrong)


def test_bases_and_packages_are_no_configs(tmp_path):
    for name in ('a.py', 'b/c.py', '_base_/d.py', 'b/_base_/e.py', 'b/__init__.py', 'f.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert list(configs_in(tmp_path)) == ['a', 'b/c']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('x = 1', 'has no model'),
        ("model = dict(type='X')", 'default_scope = None'),
        ("model = dict(type='X')\ndefault_scope = 'mmpose'", "default_scope = 'mmpose'"),
    ],
)
def test_what_cannot_be_built_is_not_read(tmp_path, content, message):
    file = tmp_path / 'bad.py'
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(file)


def test_weights_tell_the_arch(tmp_path, monkeypatch):
    monkeypatch.setattr(config, 'variant_of', lambda source, _: VARIANTS[source])
    backbone = dict(type='Hiera', arch='auto', init_cfg=dict(type='Pretrained', checkpoint='base'))
    file = tmp_path / 'auto.py'
    file.write_text(f"default_scope = 'mmdet'\nmodel = dict(backbone={backbone})")
    assert read(file).model.backbone.arch == 'base'


def test_what_is_not_there_is_not_read():
    with pytest.raises(ConfigError, match='upernet_hiera-demo_shapes'):
        read(DEMO / 'upernet_hiera-demo_shape.py')
    with pytest.raises(ConfigError, match='There is no config'):
        read('mmdet/nothing/like_it')


def test_files_named_from_above_a_config_get_whole_paths(tmp_path, monkeypatch):
    (tmp_path / 'repository' / 'configs').mkdir(parents=True)
    labels = tmp_path / 'repository' / 'labels.json'
    for file in (labels, tmp_path / 'here.txt'):
        file.touch()
    monkeypatch.chdir(tmp_path)
    data = dict(type='CocoDataset', data_root='data', ann_file='labels.json')
    stays = (data, 'here.txt', 'none.txt', 'a long text. ' * 100)
    config = labels.parent / 'configs' / 'mine.py'
    found = with_absolute_files(dict(a=['labels.json'], b=stays), config)
    assert found == dict(a=[str(labels)], b=stays)


def test_backbones_are_found_wherever_they_are():
    backbone = dict(type='ResNet')
    model = dict(
        detector=dict(backbone=backbone, neck=dict(rfp_backbone=backbone)),
        reid=dict(backbone=backbone),
        teacher_config=dict(model=dict(backbone=backbone)),
        parts=[dict(), dict(backbone=backbone)],
        named=dict(backbone='a string'),
    )
    assert [path for path, _ in owners(model)] == [('detector',), ('parts', 1)]
    assert [path for path, _ in owners(dict(backbone=backbone))] == [()]


@pytest.mark.parametrize(
    ('loading', 'masks'),
    [
        (dict(type='LoadAnnotations', with_bbox=True), False),
        (dict(type='LoadAnnotations', with_mask=True), True),
        (dict(type='LoadPanopticAnnotations'), True),
        (dict(type='LoadPanopticAnnotations', with_mask=False), False),
    ],
)
def test_masks_are_there_if_they_are_loaded(loading, masks):
    assert loads_masks(dict(train_dataloader=dict(dataset=dict(pipeline=[loading])))) == masks


def with_test(*pipeline):
    inner = dict(pipeline=list(pipeline))
    return Config(dict(test_dataloader=dict(dataset=dict(type='Repeat', dataset=inner))))


@pytest.mark.parametrize(
    ('pipeline', 'size'),
    [
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], (800, 1344)),
        ([dict(type='Resize', scale=(800, 1333), keep_ratio=True)], (800, 1344)),
        ([dict(type='Resize', scale=(2048, 500))], (512, 2048)),
        ([dict(type='Resize', scale=(100, 200), keep_ratio=False)], (224, 128)),
        ([dict(type='Resize', scale=640)], (640, 640)),
        (
            [
                dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
                dict(type='Pad', size=(1024, 768)),
            ],
            (768, 1024),
        ),
        ([dict(type='Pad', size_divisor=32), dict(type='Resize', scale=(64, 64))], (64, 64)),
    ],
)
def test_the_size_of_the_test(pipeline, size):
    assert test_size(with_test(*pipeline)) == size


@pytest.mark.parametrize('pipeline', [[], [dict(type='Resize', scale_factor=0.5)]])
def test_a_config_without_a_size_says_how_to_give_one(pipeline):
    with pytest.raises(ConfigError, match='--size HEIGHT WIDTH'):
        test_size(with_test(*pipeline))


def test_given_sizes():
    assert parse_size([64]) == (64, 64)
    assert parse_size([800, 1333]) == (800, 1333)
    with pytest.raises(UserError, match='Repeat --size'):
        parse_size([1, 2, 3])
    with pytest.raises(UserError, match='at least 32'):
        parse_size([640, 16])
