"""Whole models: the demo's, and others as the toolboxes ship them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hiera_mm.cost import report
from hiera_mm.cost.counting import FORMULAS
from hiera_mm.cost.measure import Cost, Part, Setting, Timing, build, measure
from hiera_mm.errors import UserError
from hiera_mm.trial.batches import processed_batch
from hiera_mm.trial.configs import read
from hiera_mm.trial.models import in_scope

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTOR = CONFIGS / 'demo' / 'mask-rcnn_hiera-demo_fpn_shapes.py'
SEGMENTER = CONFIGS / 'demo' / 'upernet_hiera-demo_shapes.py'
STAGES = ['backbone.stem', *(f'backbone.stage {stage}' for stage in (1, 2, 3, 4))]
COUNT_ONLY = Setting(activations=False, timed=False)


def quiet(_: str) -> None:
    pass


def test_a_detector_processes_all_that_it_may():
    cfg = read(DETECTOR, {'model.test_cfg.rcnn.score_thr': 0.5})  # no untrained model is so sure
    (cost,) = measure(cfg, [(64, 64)], COUNT_ONLY, quiet)
    heads = ['neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']
    assert [part.name for part in cost.parts] == STAGES + heads
    assert cost.total.parameters == sum(p.numel() for p in build(cfg).parameters())
    assert cost.total.multiply_adds == cost.backbone.multiply_adds + cost.rest.multiply_adds
    assert cost.detections == 100
    parts = {part.name: part.multiply_adds for part in cost.parts}
    # Two convolutions of 3x3 at 14x14, one doubling of the size, one convolution of 1x1 at 28x28.
    mask = 2 * 196 * 64 * 64 * 9 + 196 * 64 * 64 * 4 + 784 * 64 * 6
    assert parts['roi_head.mask_head'] == 100 * mask
    # Two linear layers, then seven classes and one box.
    box = 49 * 64 * 256 + 256 * 256 + 256 * (7 + 4)
    assert parts['roi_head.bbox_head'] == 200 * box


def test_a_segmenter_at_two_sizes():
    said = []
    setting = Setting(repeats=1, train=True)
    costs = measure(read(SEGMENTER), [(64, 64), (64, 96)], setting, said.append)
    for cost in costs:
        assert [part.name for part in cost.parts] == [*STAGES, 'decode_head', 'auxiliary_head']
        assert cost.activations > 2**20
        for timing in (cost.prediction, cost.training):
            assert timing.seconds > 0
            assert timing.peak is None
    small, large = (cost.backbone for cost in costs)
    assert 1.4 * small.multiply_adds < large.multiply_adds < 1.7 * small.multiply_adds
    assert costs[0].activations < costs[1].activations
    assert 'counting' in ' '.join(said)
    cfg = read(SEGMENTER)
    (half,) = measure(cfg, [(64, 64)], Setting(dtype='bfloat16', timed=False), quiet)
    assert half.parts == costs[0].parts
    assert half.prediction is None
    assert half.activations < costs[0].activations


def test_torch_counts_the_same():
    """A segmenter does the same work whatever the weights are; at 224x224 nothing is resized."""
    cfg = read(SEGMENTER)
    (cost,) = measure(cfg, [(224, 224)], COUNT_ONLY, quiet)
    model = build(cfg)
    data = processed_batch(model, cfg, (224, 224))
    theirs = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.no_grad(), in_scope('mmseg'), theirs:
        model(**data, mode='predict')
    assert theirs.get_total_flops() == 2 * cost.total.multiply_adds


def test_other_backbones_and_shipped_configs():
    options = {'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}
    cfg = read('mmdet/retinanet/retinanet_r50_fpn_1x_coco', options)
    assert 'Pretrained' in str(cfg.model)
    (cost,) = measure(cfg, [(64, 64)], COUNT_ONLY, quiet)
    assert [part.name for part in cost.parts] == ['backbone', 'neck', 'bbox_head']
    assert cost.backbone.parameters == 11_176_512  # ResNet-18 without its classifier
    assert cost.backbone.attention == 0


@pytest.mark.slow
def test_a_detector_at_work():
    (cost,) = measure(read(DETECTOR), [(64, 64)], Setting(repeats=1, train=True), quiet)
    assert cost.activations > 2**20
    assert cost.prediction.seconds > 0
    assert cost.training.seconds > 0


@pytest.mark.gpu
def test_on_a_gpu():
    for file in (DETECTOR, SEGMENTER):
        setting = Setting(device='cuda', repeats=1, train=True)
        (there,) = measure(read(file), [(64, 64)], setting, quiet)
        (here,) = measure(read(file), [(64, 64)], COUNT_ONLY, quiet)
        assert there.parts == here.parts
        assert there.prediction.peak > 4 * here.total.parameters
        assert there.training.peak > 12 * here.total.parameters


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(device='gpu'), "no device 'gpu'; use cpu or cuda"),
        (dict(device='meta'), 'not on meta'),
        (dict(dtype='int8'), "float32, bfloat16, got 'int8'"),
        (dict(repeats=0), 'at least 1'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Setting(**options)


COST = Cost(
    'name',
    (64, 96),
    (Part('backbone', 3_000_000, 2 * 10**9, 10**9), Part('neck', 1_000_000, 2 * 10**9, 0)),
    detections=100,
    activations=2**30,
    prediction=Timing(0.5),
    training=Timing(4.0, 2**31),
)


def test_tables_for_the_terminal():
    lines = report.parts_table(COST).splitlines()
    assert lines[0] == 'name, 64x96'
    assert lines[4].split() == ['backbone', '3.00', '75.0', '2.00', '50.0', '1.00']
    assert lines[6].split() == ['total', '4.00', '100.0', '4.00', '100.0', '1.00']
    assert lines[8:] == [
        'counted with 100 detections',
        'kept for the backward pass: 1,024 MiB an image',
        'prediction: 2 images/s (0.5 s, batch 1)',
        'training: 0.5 images/s (4 s, batch 2)',
        'peak memory of training: 2,048 MiB',
    ]
    assert 'backward' not in report.parts_table(Cost('name', (64, 96), COST.parts))


def test_tables_in_markdown():
    assert report.summary([Cost('name', (64, 96), COST.parts)], markdown=True) == (
        '| config | size  | parameters (M) | backbone GFLOPs | rest GFLOPs | total GFLOPs |\n'
        '| ------ | ----- | -------------: | --------------: | ----------: | -----------: |\n'
        '| name   | 64x96 |            4.0 |             2.0 |         2.0 |          4.0 |'
    )
    cells = [cell.strip() for cell in report.summary([COST], markdown=True).split('|')[-11:-1]]
    assert cells == ['name', '64x96', '4.0', '2.0', '2.0', '4.0', '1,024', '2', '0.5', '2,048']


def test_all_parts_as_csv(tmp_path):
    report.write_csv([COST], tmp_path / 'costs.csv')
    with (tmp_path / 'costs.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['part'] for row in rows] == ['backbone', 'neck', 'total']
    assert rows[1]['multiply_adds'] == '2000000000'
    assert rows[2]['activation_bytes'] == str(2**30)
    assert rows[2]['peak_bytes'] == ''
    assert rows[2]['training_seconds'] == '4.0'
    assert rows[2]['training_peak_bytes'] == str(2**31)


def test_numbers_have_three_digits():
    texts = [report.three_digits(value) for value in (0.01234, 1.5, 999.4, 999.7, 12345.6)]
    assert texts == ['0.0123', '1.5', '999', '1000', '12346']


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'papers'), [('b', 0.6), ('bp', 0.6), ('l', 1.2)])
def test_mask_rcnn_costs_what_the_paper_says(size, papers):
    """Table 10 of the paper, to its rounding."""
    name = f'coco/mask_rcnn/mask-rcnn_hiera-{size}_fpn_16xb4-lsj-100e_coco.py'
    (cost,) = measure(read(CONFIGS / name), [(1024, 1024)], COUNT_ONLY, quiet)
    assert round(cost.total.multiply_adds / 1e12, 1) == papers
    assert cost.detections == 100
