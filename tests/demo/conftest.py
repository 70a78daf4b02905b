from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from demo.tasks import DETECTOR, SEGMENTER


class Tools:
    """Stands for tools/train.py and tools/test.py: leaves the files that they would leave.

    Attributes:
        commands: Those run so far, without the path of the tool.
        stop_at: If set, the next training is interrupted after this iteration.
    """

    interval = 2

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stop_at: int | None = None

    def __call__(self, command, log, progress) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('')
        tool, config, *arguments = [str(argument) for argument in command]
        self.commands.append([Path(tool).name, *arguments])
        work_dir = Path(arguments[arguments.index('--work-dir') + 1])
        progress()
        if Path(tool).name == 'train.py':
            self._train(Config.fromfile(config).train_cfg.max_iters, work_dir, progress)
        else:
            self._test(work_dir, Path(arguments[arguments.index('--out') + 1]))

    def _train(self, max_iters, work_dir, progress) -> None:
        last = work_dir / 'last_checkpoint'
        start = int(last.read_text().rpartition('_')[2][:-4]) if last.exists() else 0
        folder = work_dir / f'2026_{len(self.commands):04d}' / 'vis_data'
        folder.mkdir(parents=True)
        for step in range(start + 1, max_iters + 1):
            with (folder / 'scalars.json').open('a') as scalars:
                print(json.dumps({'loss': 1 / step, 'step': step}), file=scalars)
            progress()
            if step % self.interval == 0:
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
            none = {name: [] for name in ('labels', 'bboxes', 'masks', 'scores')}
            out.write_bytes(pickle.dumps([{'img_id': 1, 'pred_instances': none}]))
        else:
            out.mkdir(exist_ok=True)
            image = cv2.imread('data/shapes/images/validation/validation_000001.jpg')
            cv2.imwrite(str(out / 'validation_000001.png'), np.ones(image.shape[:2], np.uint8))


@pytest.fixture
def tools():
    return Tools()


@pytest.fixture
def home(tmp_path):
    """A folder with configs as short as the demo can read."""
    texts = {
        DETECTOR: """
            ann_file='annotations/instances_validation.json',
            data_prefix=dict(img='images/validation'),
            metainfo=dict(classes=('disc',))""",
        SEGMENTER: """
            img_suffix='.jpg', seg_map_suffix='.png', metainfo=dict(classes=('ground', 'sky')),
            data_prefix=dict(
                img_path='images/validation', seg_map_path='annotations/validation')""",
    }
    home = tmp_path / 'home'
    for task, text in texts.items():
        config = home / task.config
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(
            'model = dict()\ntrain_cfg = dict(max_iters=4)\n'
            f"test_dataloader = dict(dataset=dict(data_root='data/shapes', {text}))\n"
        )
    return home
