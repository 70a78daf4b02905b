"""Shared by the tests of the command lines: data and a config in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import hiera_mm  # noqa: F401  supplies mmcv's operators
from demo.shapes import make_shapes

CONFIG = """
_base_ = ['{base}']
model = dict(
    backbone=dict(arch=dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=16, norm_cfg=dict(type='SyncBN')),
    auxiliary_head=dict(in_channels=64),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}')
)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}')
)
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
"""


@pytest.fixture(scope='session')
def home() -> Path:
    """The folder that holds configs/ and tools/."""
    return Path(__file__).parents[2]


@pytest.fixture(scope='session')
def workplace(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A folder with data/shapes/ and quick.py, a segmenter."""
    folder = tmp_path_factory.mktemp('workplace')
    root = make_shapes(folder / 'data' / 'shapes', num_train=4, num_val=2).root
    base = home / 'configs' / 'demo' / 'upernet_hiera-demo_shapes.py'
    (folder / 'quick.py').write_text(CONFIG.format(base=base, root=root))
    return folder
