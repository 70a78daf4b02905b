from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo.figures import draw_curves, draw_detections, draw_segmentations
from demo.history import History
from demo.samples import DetectionSample, Instance, SegmentationSample
from demo.tasks import DETECTOR, SEGMENTER

CLASSES = ('disc', 'box')


@pytest.fixture
def image(rng):
    return rng.integers(90, 110, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def read(file):
    picture = cv2.imread(str(file))
    assert picture is not None
    return picture


def has_colour(picture, rgb, tolerance=12):
    close = np.abs(picture[..., ::-1].astype(int) - rgb) <= tolerance
    return close.all(axis=-1).sum() > 20


def test_detections_are_drawn_over_both_rows(tmp_path, image):
    mask = np.zeros((40, 60), bool)
    mask[5:25, 5:25] = True
    true = Instance(0, (5, 5, 25, 25), mask)
    found = Instance(1, (5, 5, 25, 25), mask, score=0.9)
    draw_detections([DetectionSample(image, [true], [found])], CLASSES, tmp_path / 'both.png')
    both = read(tmp_path / 'both.png')
    blue, orange = (31, 119, 180), (255, 127, 14)  # the first two colours of the palette
    upper, lower = np.array_split(both[: int(0.9 * len(both))], 2)  # without the legend
    assert has_colour(upper, blue)
    assert not has_colour(upper, orange)
    assert has_colour(lower, orange)
    assert not has_colour(lower, blue)


def test_images_of_several_sizes_and_without_objects(tmp_path, image):
    samples = [DetectionSample(image, [], []), DetectionSample(image[:20], [], [])]
    draw_detections(samples, CLASSES, tmp_path / 'none.png')
    height, width, _ = read(tmp_path / 'none.png').shape
    assert width > 500
    assert height > 500


def test_crowds_are_told_apart(tmp_path, image):
    mask = np.ones((40, 60), bool)
    for name, crowd in (('crowd', True), ('single', False)):
        sample = DetectionSample(image, [Instance(0, (0, 0, 60, 40), mask, crowd=crowd)], [])
        draw_detections([sample], CLASSES, tmp_path / f'{name}.png')
    assert not np.array_equal(read(tmp_path / 'crowd.png'), read(tmp_path / 'single.png'))


def test_label_maps_have_the_colours_of_the_legend(tmp_path, image):
    truth = np.ones((40, 60), np.uint8)
    predicted = np.full((40, 60), 2, np.uint8)
    file = tmp_path / 'labels.png'
    draw_segmentations([SegmentationSample(image, truth, predicted)], CLASSES, file)
    picture = read(file)
    _, middle, lower = np.array_split(picture[: int(0.95 * len(picture))], 3)
    grey = 0.3 * 100
    blue, orange = (0.7 * np.array(rgb) + grey for rgb in ((31, 119, 180), (255, 127, 14)))
    assert has_colour(middle, blue)
    assert not has_colour(middle, orange)
    assert has_colour(lower, orange)


@pytest.mark.parametrize('label', [0, 3, 255])
def test_pixels_of_no_class_are_dark(tmp_path, image, label):
    labels = np.full((40, 60), label, np.uint8)
    file = tmp_path / 'unlabelled.png'
    draw_segmentations([SegmentationSample(image, labels, np.ones_like(labels))], CLASSES, file)
    assert has_colour(read(file), (30, 30, 30))


@pytest.mark.parametrize('task', [DETECTOR, SEGMENTER])
def test_curves(tmp_path, task):
    history = History(
        losses={10: {'loss': 2.0, 'loss_a': 1.5}, 20: {'loss': 1.0, 'loss_a': 0.5, 'loss_b': 0.2}},
        metrics={20: {score.key: 0.5 * score.full for score in task.scores}},
    )
    draw_curves(task, history, tmp_path / 'full.png')
    draw_curves(task, History(), tmp_path / 'empty.png')
    full, empty = read(tmp_path / 'full.png'), read(tmp_path / 'empty.png')
    assert full.shape == empty.shape
    assert (full != empty).any(axis=-1).mean() > 0.005
