from pathlib import Path

import pytest

from hiera_mm.errors import ConfigError
from hiera_mm.swap.find import configs_in, configs_root, owners, resolve, shipped


@pytest.mark.parametrize(
    ('toolbox', 'name', 'least'),
    [
        ('mmdet', 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 800),
        ('mmseg', 'mmseg/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024', 600),
    ],
)
def test_all_shipped_configs_are_found(toolbox, name, least):
    found = shipped(toolbox)
    assert len(found) >= least
    assert found[name] == configs_root(toolbox) / f'{name.partition("/")[2]}.py'
    assert not any('_base_' in Path(name).parts for name in found)


def test_a_config_is_found_by_its_name_and_by_its_path(tmp_path, monkeypatch):
    name = 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco'
    assert resolve(name) == resolve(f'{name}.py') == shipped('mmdet')[name]
    (tmp_path / 'mine.py').touch()
    monkeypatch.chdir(tmp_path)
    assert resolve('mine.py') == tmp_path / 'mine.py'


@pytest.mark.parametrize(
    ('wrong', 'nearest'),
    [
        ('mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_cocoo', 'mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco'),
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


def test_backbones_are_found_wherever_they_are():
    backbone = dict(type='ResNet')
    model = dict(
        detector=dict(backbone=backbone, neck=dict(rfp_backbone=backbone)),
        reid=dict(backbone=backbone),
        parts=[dict(), dict(backbone=backbone)],
        named=dict(backbone='a string'),
    )
    assert [path for path, _ in owners(model)] == [('detector',), ('parts', 1)]
    assert [path for path, _ in owners(dict(backbone=backbone))] == [()]
