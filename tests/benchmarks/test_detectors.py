"""Whole models, timed from an image file to the result, and the time of their parts."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from torch import nn

from benchmarks.kit.tables import write_csv
from benchmarks.kit.timing import Times
from benchmarks.models import parts as parts_of
from benchmarks.models import report
from benchmarks.models.measuring import Result, measure, read_all
from benchmarks.models.parts import PartClock, divided
from benchmarks.models.passes import Iteration, Prediction, pipeline_of, write_photo
from hiera_mm.cost.parts import REST
from hiera_mm.errors import ConfigError, UserError
from hiera_mm.trial.configs import read

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTOR = CONFIGS / 'demo' / 'mask-rcnn_hiera-demo_fpn_shapes.py'
SEGMENTER = CONFIGS / 'demo' / 'upernet_hiera-demo_shapes.py'
# Another backbone under the same heads.
OTHER = {'model.backbone.arch.depths': (1, 2, 1, 1), 'model.backbone.drop_path_rate': 0.1}


def setting(**changed):
    default = dict(size=(64, 96), photo=(90, 120), device='cpu', dtype='float32', threads=1,
                   rounds=2, warmups=0, train=False, objects=9)  # fmt: skip
    return Namespace(**{**default, **changed})


@pytest.fixture
def hands(monkeypatch):
    """A clock that is moved by hand: add to its only entry."""
    now = [100.0]
    monkeypatch.setattr(parts_of.time, 'perf_counter', lambda: now[0])
    return now


class Sleeper(nn.Module):
    """Takes some seconds in each of its methods."""

    def __init__(self, hands: list[float], seconds: float, inner: nn.Module | None = None):
        super().__init__()
        self.hands, self.seconds = hands, seconds
        if inner is not None:
            self.inner = inner

    def forward(self):
        self.hands[0] += self.seconds
        if hasattr(self, 'inner'):
            self.inner()

    def predict(self):
        self.hands[0] += 10 * self.seconds
        self.forward()  # past the hooks of torch

    def predict_bbox(self):
        self.inner()

    def predict_mask(self):
        self.hands[0] += 3
        self.inner.predict()


class Model(nn.Module):
    def __init__(self, hands):
        super().__init__()
        self.hands = hands
        self.backbone = Sleeper(hands, 1)
        self.bbox_head = nn.ModuleList([Sleeper(hands, 2, Sleeper(hands, 4))])
        self.roi_head = Sleeper(hands, 0.5, Sleeper(hands, 5))

    def forward(self):
        self.hands[0] += 7
        self.backbone()
        self.bbox_head[0].predict()
        self.hands[0] += 8
        self.bbox_head[0].inner()  # a module inside a head
        self.roi_head.predict_bbox()
        self.roi_head.predict_mask()
        self.postprocess_result()

    def postprocess_result(self):
        self.hands[0] += 9


def test_every_second_is_counted_for_its_part(hands):
    model, clock = Model(hands), PartClock()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with divided(model, clock):
        first = clock.time(lambda divide: model())
        again = clock.time(lambda divide: model())
    assert first == again == {
        'backbone': 1,
        'bbox_head': 20 + 2 + 4 + 4,
        'roi_head.bbox': 5,
        'roi_head.mask': 3 + 50 + 5,
        'postprocessing': 9,
        REST: 15,
    }  # fmt: skip
    assert list(first)[-1] == REST
    model()  # no longer counted
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


def test_parts_that_the_work_names_itself(hands):
    def work(divide):
        with divide('outer'):
            hands[0] += 1
            with divide('inner'):
                hands[0] += 2
            hands[0] += 4
        hands[0] += 8

    assert PartClock().time(work) == {'outer': 5, 'inner': 2, REST: 8}


def test_a_failure_does_not_stay_with_its_part(hands):
    model, clock = Model(hands), PartClock()

    def fail():
        hands[0] += 1
        raise KeyError

    model.backbone.forward = fail
    with divided(model, clock):
        with pytest.raises(KeyError):
            clock.time(lambda divide: model())
        model.backbone.forward = lambda: None
        assert clock.time(lambda divide: model())[REST] == 15
    assert model.backbone.forward is fail


def test_a_gpu_is_waited_for_at_the_ends_of_parts(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)

    def work(divide):
        assert len(waited) == 1
        with divide('a'):
            assert len(waited) == 2
            with divide('a'):
                assert len(waited) == 2
        assert len(waited) == 3

    PartClock('cuda').time(work)
    assert waited == ['cuda'] * 4


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp('photo') / 'photo.jpg'
    write_photo(file, (90, 120))
    return file


def prediction(cfg, photo, size=(64, 96), dtype='float32', objects=7):
    return Prediction(cfg, photo, size, 'cpu', dtype, objects)


def test_detector_and_segmenter_side_by_side():
    said = []
    results = measure({'a': read(DETECTOR), 'b': read(SEGMENTER)}, setting(), said.append)
    detector, segmenter = results
    assert list(detector.parts) == [
        'pipeline', 'data_preprocessor', 'backbone', 'neck', 'rpn_head',
        'roi_head', 'roi_head.bbox', 'roi_head.mask', REST,
    ]  # fmt: skip
    assert list(segmenter.parts) == [
        'pipeline', 'data_preprocessor', 'backbone', 'decode_head', 'postprocessing', REST,
    ]  # fmt: skip
    for result in results:
        assert result.size == (64, 96)
        assert result.images == 1
        assert len(result.times.seconds) == 2
        assert result.speed == 1 / result.times.median
        assert all(seconds > 0 for seconds in result.parts.values())
        assert sum(result.parts.values()) == pytest.approx(result.times.median)
    assert 0 < detector.detections <= 9
    assert segmenter.detections is None
    assert 'a: building' in said
    assert any(line.startswith('round 2: b: ') for line in said)


def test_training_in_its_three_steps():
    small = setting(size=(64, 64), rounds=1, train=True)
    (result,) = measure({'a': read(SEGMENTER)}, small, lambda _: None)
    assert list(result.parts) == ['forward', 'backward', 'optimizer', REST]
    assert (result.images, result.detections) == (2, None)
    assert result.speed == 2 / result.times.median


def test_training_changes_the_weights():
    one = Iteration(read(SEGMENTER), (64, 64), 'cpu', 'float32')
    before = {name: value.clone() for name, value in one.model.named_parameters()}
    one.run()
    after = dict(one.model.named_parameters())
    assert one.model.training
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert all(value.grad is None for value in after.values())


def test_every_detector_sees_the_same_objects(photo):
    """Weights and backbones differ; what NMS and mask drawing get does not."""
    first = prediction(read(DETECTOR), photo)
    other = prediction(read(DETECTOR, OTHER), photo)
    boxes = [one.run()[0].pred_instances.bboxes for one in (first, first, other)]
    assert 3 <= first.detections == len(boxes[0]) <= 7
    assert torch.equal(boxes[0], boxes[1])
    assert torch.equal(boxes[0], boxes[2])
    # They are real boxes in the photo, not all of one size.
    sides = boxes[0][:, 2:] - boxes[0][:, :2]
    assert (sides > 0).all()
    assert sides.max() > 2 * sides.min()
    assert prediction(read(DETECTOR), photo, objects=0).detections == 0


def test_mixed_precision(photo):
    one = prediction(read(DETECTOR), photo, dtype='bfloat16')
    seen = []
    one.model.neck.register_forward_hook(lambda module, inputs, out: seen.append(out[0].dtype))
    one.run()
    assert seen == [torch.bfloat16]


@pytest.mark.slow
def test_objects_are_seen_by_heads_of_one_stage(photo):
    cfg = read('mmdet/retinanet/retinanet_r50_fpn_1x_coco', {'model.backbone.depth': 18,
               'model.neck.in_channels': [64, 128, 256, 512]})  # fmt: skip
    one = prediction(cfg, photo)
    assert 3 <= one.detections <= 7
    boxes = [one.run()[0].pred_instances.bboxes for _ in range(2)]
    assert torch.equal(*boxes)


def test_the_pipeline_is_the_configs_own(photo):
    data = pipeline_of(read(DETECTOR))(photo)
    assert tuple(data['inputs'][0].shape) == (3, 132, 176)  # within 176x144, as the config says
    sample = data['data_samples'][0]
    assert sample.ori_shape == (90, 120)
    assert len(sample.gt_instances) == 0  # there is no truth


def test_the_size_goes_into_the_pipeline(photo):
    config = CONFIGS / 'coco' / 'mask_rcnn' / 'mask-rcnn_hiera-t_fpn_1x_coco.py'
    data = pipeline_of(read(config), (64, 96))(photo)
    assert tuple(data['inputs'][0].shape) == (3, 64, 96)
    kinds = ('LoadImageFromFile', 'Resize', 'Pad', 'PackDetInputs')
    steps = [dict(type=kind) for kind in kinds]
    steps[1]['scale'] = steps[2]['size'] = (200, 200)
    dataset = dict(pipeline=steps)
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), default_scope='mmdet'))
    assert tuple(pipeline_of(cfg, (64, 96))(photo)['inputs'][0].shape) == (3, 64, 96)
    left = cfg.test_dataloader.dataset.pipeline  # as it was
    assert left[1].scale == left[2].size == (200, 200)


def test_a_photo_is_a_picture_of_its_size(photo):
    image = cv2.imread(str(photo))
    assert image.shape == (90, 120, 3)
    assert image.std() > 10
    with pytest.raises(UserError, match='at least 64 pixels'):
        write_photo(photo.with_name('no.jpg'), (32, 640))


def test_bad_configs(photo):
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dict(pipeline=[]))))
    with pytest.raises(ConfigError, match='does not resize images'):
        pipeline_of(cfg, (64, 96))
    with pytest.raises(ConfigError, match='has no test pipeline'):
        pipeline_of(Config(dict(default_scope='mmdet')))
    cfg = read(DETECTOR)
    del cfg.test_dataloader.dataset.pipeline[0]
    with pytest.raises(ConfigError, match='of an image file and nothing else, failed: KeyError'):
        prediction(cfg, photo)


def test_configs_have_names_of_their_own(tmp_path):
    (tmp_path / 'demo.py').write_text(f"_base_ = ['{DETECTOR}']")
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'demo.py').write_text(f"_base_ = ['{DETECTOR}']")
    names = [str(tmp_path / 'demo.py'), str(tmp_path / 'b' / 'demo.py'), str(SEGMENTER)]
    assert list(read_all(names)) == [*names[:2], SEGMENTER.stem]
    with pytest.raises(UserError, match='given twice'):
        read_all([names[0], names[0]])


APART = {'pipeline': 0.002, 'backbone': 0.298, 'neck': 0.08, REST: 0.02}  # twice as long
PARTS = {name: seconds / 2 for name, seconds in APART.items()}
RESULTS = [
    Result('first', (800, 1344), 1, Times((0.2, 0.2, 0.2)), APART, detections=100),
    Result('second', (512, 512), 1, Times((0.1, 0.09, 0.13)), {'decode_head': 0.1, REST: 0.0}),
]


def test_the_table():
    table, legend = report.results_table(RESULTS).split('\n\n')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]
    assert rows[0] == [
        'config', 'image', 'images/s', 'spread', 'relative', 'detections', 'ms',
        'pipeline', 'backbone', 'neck', 'decode_head', 'rest', 'apart',
    ]  # fmt: skip
    assert rows[2] == [
        'first', '800x1344', '5', '0%', '1.00', '100', '200', '1', '149', '40', '', '10', '400',
    ]  # fmt: skip
    assert rows[3] == [
        'second', '512x512', '10', '20%', '2.00', '', '100', '', '', '', '100', '0', '100',
    ]  # fmt: skip
    assert len({len(line) for line in table.splitlines()}) == 1
    assert 'scaled to `ms`' in legend
    assert 'detections' not in report.results_table(RESULTS[1:])


def test_the_csv(tmp_path):
    write_csv(tmp_path / 'd.csv', report.csv_rows(RESULTS))
    with (tmp_path / 'd.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['part'] for row in rows] == ['total', *PARTS, 'total', 'decode_head', REST]
    assert [float(row['seconds']) for row in rows[:5]] == pytest.approx([0.2, *PARTS.values()])
    assert [float(row['seconds_apart']) for row in rows[1:5]] == list(APART.values())
    assert {(row['height'], row['width']) for row in rows[:5]} == {('800', '1344')}
    assert [row['detections'] for row in rows] == ['100'] * 5 + [''] * 3
    assert float(rows[5]['spread']) == pytest.approx(0.2)
    assert rows[1]['spread'] == ''


def test_the_picture(tmp_path, monkeypatch):
    drawn = []
    keep = report.Figure.savefig
    monkeypatch.setattr(
        report.Figure, 'savefig', lambda figure, file: (drawn.append(figure), keep(figure, file))
    )
    report.draw_results(RESULTS, 'what\nwhere', tmp_path / 'd.png')
    assert cv2.imread(str(tmp_path / 'd.png')).shape[1] == 1320
    (axes,) = drawn[0].axes
    bars = [(bar.get_y(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    ends = {row: max(end for y, end in bars if round(y + 0.35) == row) for row in (0, 1)}
    assert ends == pytest.approx({0: 200, 1: 100})
    # The pipeline is too small to be seen, and drawn with the rest.
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ['backbone', 'neck', 'decode_head', REST]
    texts = [text.get_text().strip() for text in axes.texts]
    assert {'149', '40', '100', '5 images/s', '10 images/s'} <= set(texts)


def test_what_was_timed_is_said():
    said = report.describe(setting(dtype='bfloat16'))
    assert 'file of 90x120' in said
    assert 'seeing 9 objects' in said
    assert 'bfloat16 on 1 thread of' in said
    assert said.count('\n') == 1
    assert 'AdamW' in report.describe(setting(train=True))


def test_the_script(run_script, tmp_path):
    options = ('--rounds', 1, '--warmups', 0, '--threads', 1, '--work-dir', tmp_path)
    small = ('--cfg-options', 'model.auxiliary_head=None')
    done = run_script('detectors', SEGMENTER, '--size', 64, 96, *options, *small)
    assert done.returncode == 0, done.stderr
    assert f'| {SEGMENTER.stem} | 64x96 |' in done.stdout
    assert f'round 1: {SEGMENTER.stem}' in done.stderr
    assert all((tmp_path / f'detectors.{kind}').stat().st_size for kind in ('md', 'csv', 'png'))
    done = run_script('detectors', SEGMENTER, '--size', 16, 64, *options)
    assert done.returncode == 2
    assert 'at least 32 pixels' in done.stderr


@pytest.mark.gpu
def test_on_a_gpu():
    for train in (False, True):
        on_gpu = setting(device='cuda', dtype='bfloat16', train=train)
        result = measure({'a': read(DETECTOR)}, on_gpu, lambda _: None)[0]
        assert all(seconds > 0 for seconds in result.parts.values())
        assert result.times.median > 0
