"""Shared by the tests of the engine: a little data, and two tasks on it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

import hiera_mm  # noqa: F401  supplies mmcv's operators
from demo.shapes import ShapesPaths, make_shapes
from hiera_mm.engine import (
    config,
    train,
)
from hiera_mm.engine import test as evaluate

CONFIGS = Path(__file__).parents[2] / 'configs'
TRAINED_ITERS = 1
WIDTHS = [16, 32, 64, 128]  # of the stages of the backbone


@dataclass(frozen=True)
class Task:
    """A demo config, made quick, on a few images."""

    config: Path
    options: dict[str, Any]
    work_dir: Path

    @property
    def checkpoint(self) -> str:
        return str(self.work_dir / f'iter_{TRAINED_ITERS}.pth')

    def changed(self, **changes: Any) -> dict[str, Any]:
        """The options with others added, `__` standing for the dots."""
        return {**self.options, **{key.replace('__', '.'): v for key, v in changes.items()}}

    def train(self, work_dir: Path, how: dict[str, Any] | None = None, **changes: Any) -> Runner:
        """Train with options of `train` and changes of the config; return the runner."""
        forget_other_runs()
        options = self.changed(**changes)
        return train(self.config, work_dir=str(work_dir), cfg_options=options, **(how or {}))

    def test(self, work_dir: Path, how: dict[str, Any] | None = None, **changes: Any) -> dict:
        """Test the checkpoint, or the one in `how`, with options of `test`; return the scores."""
        how = {'checkpoint': self.checkpoint, **(how or {})}
        forget_other_runs()
        options = self.changed(**changes)
        return evaluate(self.config, work_dir=str(work_dir), cfg_options=options, **how)


def forget_other_runs() -> None:
    """mmengine knows runs by their second: two in one would share loggers and checkpoints."""
    for kind in (MMLogger, MessageHub, DefaultScope, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


def make_task(name: str, shapes: ShapesPaths, work_dir: Path, **options: Any) -> Task:
    quick: dict[str, Any] = {
        'model.backbone.arch': dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)),
        'train_cfg.max_iters': TRAINED_ITERS,
        'train_cfg.val_interval': 100,  # the last iteration is still followed by one
        'default_hooks.checkpoint.interval': TRAINED_ITERS,
        'train_dataloader.batch_size': 2,
    }
    for split in ('train', 'val', 'test'):
        quick[f'{split}_dataloader.num_workers'] = 0
        quick[f'{split}_dataloader.persistent_workers'] = False
        quick[f'{split}_dataloader.dataset.data_root'] = str(shapes.root)
    return Task(CONFIGS / 'demo' / name, {**quick, **options}, work_dir)


@pytest.fixture(autouse=True)
def no_memory_of_other_tests() -> None:
    forget_other_runs()


@pytest.fixture(scope='session', autouse=True)
def quick_runners():
    """Leave out what takes most of the time of so short a training, and is not tested here."""
    gc.collect()
    gc.freeze()  # mmengine collects garbage for each data set, among all that was imported
    with pytest.MonkeyPatch.context() as patch:
        # The layout of a config's text, which is written five times in a training.
        for module in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # one of each stack
            layout = f'{module}.FormatCode'
            patch.setattr(layout, lambda text, **_: (text, False), raising=False)
        yield


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    """A few images, to be read only."""
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=4, num_val=2)


@pytest.fixture(scope='session')
def detector(shapes: ShapesPaths, tmp_path_factory: pytest.TempPathFactory) -> Task:
    annotations = str(shapes.instances('validation'))
    return make_task(
        'mask-rcnn_hiera-demo_fpn_shapes.py',
        shapes,
        tmp_path_factory.mktemp('detector'),
        **{
            'model.neck.in_channels': WIDTHS,
            'model.test_cfg.rcnn.max_per_img': 3,
            'val_evaluator.ann_file': annotations,
            'test_evaluator.ann_file': annotations,
        },
    )


@pytest.fixture(scope='session')
def segmenter(shapes: ShapesPaths, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(
        'upernet_hiera-demo_shapes.py',
        shapes,
        tmp_path_factory.mktemp('segmenter'),
        **{
            'model.decode_head.in_channels': WIDTHS,
            'model.decode_head.channels': 16,
            'model.auxiliary_head.in_channels': WIDTHS[2],
        },
    )


@pytest.fixture(scope='session')
def trained_detector(detector: Task) -> Task:
    detector.train(detector.work_dir)
    return detector


@pytest.fixture(scope='session')
def trained_segmenter(segmenter: Task) -> Task:
    segmenter.train(segmenter.work_dir)
    return segmenter


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the engine logs, which mmengine's own logger hides from pytest."""
    messages: list[str] = []
    monkeypatch.setattr(config, 'print_log', lambda message, **_: messages.append(message))
    return messages
