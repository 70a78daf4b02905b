from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from hiera_mm.engine import ConfigError
from hiera_mm.engine.config import load_config

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

    def test_survive_the_dump(self, write, tmp_path, logged):
        cfg = load_config(write("model = dict(backbone=dict(type='Hiera'))"))
        cfg.dump(tmp_path / 'dumped.py')
        assert load_config(tmp_path / 'dumped.py').custom_imports['imports'] == ['hiera_mm']
        assert len(logged) == 1


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
