from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from demo import training
from demo.shapes import ShapesPaths, make_shapes

MAX_ITERS = 4


class Tools:
    """Stands for tools/train.py and tools/test.py: leaves the files that they would leave.

    Attributes:
        commands: Those run so far, without the path of the tool and the config.
        stop_at: If set, the next training is interrupted after this iteration.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stop_at: int | None = None

    def __call__(self, command, log, progress, console) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('')
        tool, _, *arguments = [str(argument) for argument in command]
        self.commands.append([Path(tool).name, *arguments])
        work_dir = Path(arguments[arguments.index('--work-dir') + 1])
        progress()
        if Path(tool).name == 'train.py':
            self._train(work_dir, progress)
        else:
            self._test(work_dir, Path(arguments[arguments.index('--out') + 1]))

    def _train(self, work_dir, progress) -> None:
        last = work_dir / 'last_checkpoint'
        start = int(last.read_text().rpartition('_')[2][:-4]) if last.exists() else 0
        folder = work_dir / f'2026_{len(self.commands):04d}' / 'vis_data'
        folder.mkdir(parents=True)
        for step in range(start + 1, MAX_ITERS + 1):
            with (folder / 'scalars.json').open('a') as scalars:
                print(json.dumps({'loss': 1 / step, 'time': 0.1, 'step': step}), file=scalars)
            progress()
            if step % 2 == 0:
                checkpoint = work_dir / f'iter_{step}.pth'
                checkpoint.touch()
                last.write_text(str(checkpoint))
            if step == self.stop_at:
                self.stop_at = None
                raise KeyboardInterrupt

    def _test(self, work_dir, out) -> None:
        metrics = {'coco/bbox_mAP': 0.6, 'coco/segm_mAP': 0.5, 'mIoU': 70.0}
        (work_dir / '2026').mkdir(parents=True)
        (work_dir / '2026' / '2026.json').write_text(json.dumps(metrics))
        if out.suffix == '.pkl':
            none = {name: np.array([]) for name in ('labels', 'bboxes', 'masks', 'scores')}
            out.write_bytes(pickle.dumps([{'img_id': 1, 'pred_instances': none}]))
        else:
            out.mkdir(exist_ok=True)
            image = cv2.imread('data/shapes/images/validation/validation_000001.jpg')
            cv2.imwrite(str(out / 'validation_000001.png'), np.ones(image.shape[:2], np.uint8))


@pytest.fixture
def tools(monkeypatch):
    """What runs instead of the tools."""
    tools = Tools()
    monkeypatch.setattr(training, 'run_command', tools)
    return tools


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    """A small set with everything in it, to be read only."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, num_train=50, num_val=30, seed=3)
