"""mmdet's and mmseg's own scripts run a config whose only hook is `custom_imports`."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import hiera_mm
from hiera_mm.ops.__main__ import main
from hiera_mm.weights.reading import read_checkpoint

ROOT = Path(hiera_mm.__file__).parents[1]

ARCH = dict(embed_dim=8, num_heads=1, depths=(1, 1, 1, 1))
COMMON = """
custom_imports = dict(imports=['hiera_mm'])
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
test_cfg = dict()
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
log_level = 'WARNING'
"""

# RoIAlign, nms and deformable convolutions, through the registries and by direct import.
DETECTOR = """
_base_ = '{configs}/_base_/models/faster-rcnn_r50_fpn.py'
default_scope = 'mmdet'
model = dict(
    backbone=dict(_delete_=True, type='Hiera', arch={arch}),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, conv_cfg=dict(type='DCNv2')),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16),
                  bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=1)))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(64, 64)),
            dict(type='PackDetInputs',
                 meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', ann_file='{data}/boxes.json', data_prefix=dict(img='{data}/'),
                 metainfo=dict(classes=('square',)), pipeline=pipeline))
test_dataloader = train_dataloader
test_evaluator = dict(type='CocoMetric', ann_file='{data}/boxes.json', metric='bbox')
"""

# CrissCrossAttention by direct import, which the toolbox replaces with None where it is missing.
SEGMENTER = """
_base_ = '{configs}/_base_/models/ccnet_r50-d8.py'
default_scope = 'mmseg'
model = dict(
    data_preprocessor=dict(size=(64, 64)), pretrained=None, auxiliary_head=None,
    backbone=dict(_delete_=True, type='Hiera', arch={arch}),
    decode_head=dict(in_channels=64, channels=8, num_classes=2, norm_cfg=dict(type='BN')))
train_dataloader = dict(batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', img_suffix='.jpg', seg_map_suffix='.png',
                 data_prefix=dict(img_path='{data}', seg_map_path='{data}'),
                 metainfo=dict(classes=('ground', 'square'), palette=[[0, 0, 0], [9, 9, 9]]),
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                           dict(type='PackSegInputs')]))
test_dataloader = train_dataloader
test_evaluator = dict(type='IoUMetric')
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two images of a bright square, as a COCO data set and with label maps."""
    folder = tmp_path_factory.mktemp('data')
    annotations = []
    for index in (1, 2):
        labels = np.zeros((64, 64), np.uint8)
        labels[8:40, 16:48] = 1
        cv2.imwrite(str(folder / f'{index}.png'), labels)
        cv2.imwrite(str(folder / f'{index}.jpg'), cv2.merge([labels * 200] * 3))
        box = dict(bbox=[16, 8, 32, 32], area=1024, iscrowd=0, category_id=1)
        annotations.append(box | dict(id=index, image_id=index))
    images = [dict(id=i, file_name=f'{i}.jpg', width=64, height=64) for i in (1, 2)]
    coco = dict(images=images, annotations=annotations, categories=[dict(id=1, name='square')])
    (folder / 'boxes.json').write_text(json.dumps(coco))
    return folder


def run(*command):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)],
        check=False, capture_output=True, text=True,
        # As from a shell: hiera_mm.engine sets the last one for its own process.
        env=os.environ | {'PYTHONPATH': path, 'TORCH_FORCE_WEIGHTS_ONLY_LOAD': '0'},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def prepare(toolbox, config, data, folder):
    """Write a config; return its path and the folder of the toolbox's own scripts."""
    mim = Path(find_spec(toolbox).origin).parent / '.mim'
    path = folder / f'{toolbox}.py'
    for name, value in {'{data}': data, '{configs}': mim / 'configs', '{arch}': ARCH}.items():
        config = config.replace(name, str(value))
    path.write_text(config + COMMON)
    return path, mim / 'tools'


def train(toolbox, config, data, folder):
    """Train for one iteration with the toolbox's own script; return the weights."""
    path, tools = prepare(toolbox, config, data, folder)
    run(tools / 'train.py', path, '--work-dir', folder / 'work')
    return read_checkpoint(folder / 'work' / 'epoch_1.pth')['state_dict']


def test_mmdet_trains_a_hiera_detector(data, tmp_path):
    state = train('mmdet', DETECTOR, data, tmp_path)
    assert state['backbone.patch_embed.proj.weight'].shape == (8, 3, 7, 7)


@pytest.mark.slow
def test_mmdet_tests_a_hiera_detector(data, tmp_path):
    # This script asks for operators before it reads the config, hence the launcher.
    config, tools = prepare('mmdet', DETECTOR, data, tmp_path)
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': {}}, weights)
    options = ('--work-dir', tmp_path / 'work', '--cfg-options', 'log_level=INFO')
    output = run('-m', 'hiera_mm.ops', tools / 'test.py', config, weights, *options)
    assert 'bbox_mAP' in output


@pytest.mark.slow
def test_mmseg_trains_a_hiera_segmenter(data, tmp_path):
    assert 'decode_head.cca.gamma.scale' in train('mmseg', SEGMENTER, data, tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'message'), [((), '^usage: '), (('no/such.py',), r'no/such\.py \(looked for /')]
)
def test_the_launcher_says_which_script_it_misses(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, 'argv', ['launcher', *arguments])
    with pytest.raises(SystemExit, match=message):
        main()


def test_the_launcher_runs_a_script_as_python_would(monkeypatch, tmp_path, capsys):
    (tmp_path / 'beside.py').write_text('where = "beside the script"')
    script = tmp_path / 'script.py'
    script.write_text('import sys, beside; print(__name__, sys.argv, beside.where)')
    monkeypatch.setattr(sys, 'argv', ['launcher', str(script), '--flag'])
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    main()
    assert capsys.readouterr().out == f"__main__ ['{script}', '--flag'] beside the script\n"
