"""Swapped configs of ten families, trained by the toolboxes' own scripts from the file alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset

from demo.shapes import make_shapes
from hiera_mm.weights.reading import read_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ITERATIONS = 2
BATCH = 2

DETECTORS = [
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-rcnn_x101-32x4d_fpn_1x_coco',
    'retinanet/retinanet_r18_fpn_1x_coco',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'yolox/yolox_s_8xb8-300e_coco',
]
SEGMENTERS = [
    'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512',
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512',
    'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512',
]
SHORT = {
    'mmdet': ['train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=1'],
    'mmseg': [f'train_cfg.max_iters={ITERATIONS}', 'train_cfg.val_interval=1000'],
}


@pytest.fixture(scope='module')
def workplace(tmp_path_factory):
    """A folder with a few images where configs look for COCO and ADE20K."""
    folder = tmp_path_factory.mktemp('workplace')
    shapes = make_shapes(folder / 'shapes', num_train=ITERATIONS * BATCH, num_val=1)
    coco, ade = folder / 'data' / 'coco', folder / 'data' / 'ade' / 'ADEChallengeData2016'
    (coco / 'annotations').mkdir(parents=True)
    for split, year in (('training', 'train2017'), ('validation', 'val2017')):
        shutil.copytree(shapes.images(split), coco / year)
        shutil.copytree(shapes.images(split), ade / 'images' / split)
        shutil.copytree(shapes.labels(split), ade / 'annotations' / split)
        content = json.loads(shapes.instances(split).read_text())
        # Shapes under the names of COCO's first classes; the others have to be there all the same.
        content['categories'] = [
            dict(id=number, name=name)
            for number, name in enumerate(CocoDataset.METAINFO['classes'], start=1)
        ]
        (coco / 'annotations' / f'instances_{year}.json').write_text(json.dumps(content))
    return folder


def run(workplace, *command):
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)],
        check=False, capture_output=True, text=True, cwd=workplace,
        env=os.environ | {'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': ''},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ('toolbox', 'name'),
    [*(('mmdet', name) for name in DETECTORS), *(('mmseg', name) for name in SEGMENTERS)],
)
def test_a_written_config_trains_on_its_own(toolbox, name, workplace):
    config = workplace / f'{Path(name).stem}.py'
    tool = ROOT / 'tools' / 'swap_backbone.py'
    run(workplace, tool, f'{toolbox}/{name}', '--arch', 'tiny', '--out', config)
    script = Path(find_spec(toolbox).origin).parent / '.mim' / 'tools' / 'train.py'
    work_dir = workplace / 'work_dirs' / config.stem
    output = run(
        workplace, script, config, '--work-dir', work_dir, '--cfg-options', *SHORT[toolbox],
        f'train_dataloader.batch_size={BATCH}', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    losses = [float(loss) for loss in re.findall(r'\bloss: ([\d.]+|nan|inf)', output)]
    assert len(losses) == ITERATIONS
    assert all(0 < loss < float('inf') for loss in losses)
    last = 'epoch_1.pth' if toolbox == 'mmdet' else f'iter_{ITERATIONS}.pth'
    state = read_checkpoint(work_dir / last)['state_dict']
    assert state['backbone.patch_embed.proj.weight'].shape == (96, 3, 7, 7)
