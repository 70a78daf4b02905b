from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from pycocotools import mask as coco_mask

from demo import figures
from demo.figures import draw_curves, draw_detections, draw_segmentations, paint_labels
from demo.tasks import DETECTOR, SEGMENTER
from demo.training import ROOT, History

BLUE, ORANGE = np.array(figures.PALETTE[:2])


def config(task, shapes):
    config = Config.fromfile(ROOT / task.config)
    config.test_dataloader.dataset.data_root = f'{shapes.root}/'
    return config


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function that draws, and gives the axes in rows besides the picture."""
    kept = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, file: kept.append(self))

    def draw(function, *args):
        function(*args, tmp_path / 'picture.png')
        grid = kept[-1].axes[0].get_gridspec().get_geometry()
        return np.reshape(kept[-1].axes, grid)

    return draw


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def predictions(shapes, tmp_path):
    """What mmdet would write for a detector that finds one object twice, once hardly."""
    results = []
    for image_id in range(1, 31):
        image = cv2.imread(str(shapes.images('validation') / f'validation_{image_id:06d}.jpg'))
        mask = np.zeros(image.shape[:2], np.uint8, order='F')
        mask[2:10, 3:20] = 1
        found = {
            'labels': np.array([1, 2]),
            'bboxes': np.array([[3.0, 2.0, 20.0, 10.0]] * 2),
            'masks': [coco_mask.encode(mask)] * 2,
            'scores': np.array([0.8, 0.2]),
        }
        results.append({'img_id': image_id, 'pred_instances': found})
    file = tmp_path / 'predictions.pkl'
    file.write_bytes(pickle.dumps(results))
    return file


def test_detections_are_drawn_below_their_truth(shapes, predictions, drawn):
    upper, lower = drawn(draw_detections, config(DETECTOR, shapes), predictions)
    assert len(upper) == 5
    seventh = cv2.imread(str(shapes.images('validation') / 'validation_000007.jpg'))[..., ::-1]
    for axes in (upper[1], lower[1]):
        np.testing.assert_array_equal(axes.images[0].get_array(), seventh)
    truth = figures.read_coco(shapes.instances('validation'))
    for axes, image_id in zip(upper, (1, 7, 13, 19, 25), strict=True):
        annotations = truth.imgToAnns[image_id]
        names = [truth.cats[a['category_id']]['name'] for a in annotations]
        crowds = [' (crowd)' if a['iscrowd'] else '' for a in annotations]
        assert texts(axes) == [''.join(parts) for parts in zip(names, crowds, strict=True)]
        for image, annotation in zip(axes.images[1:], annotations, strict=True):
            opaque = image.get_array()[..., 3] > 0
            np.testing.assert_array_equal(opaque, truth.annToMask(annotation))
    for axes in lower:
        assert texts(axes) == ['box 0.80']
        (box,) = axes.patches
        assert box.get_bbox().bounds == (2.5, 1.5, 17.0, 8.0)
        np.testing.assert_allclose(box.get_edgecolor()[:3], ORANGE)
        assert (axes.images[1].get_array()[..., 3] > 0).sum() == 8 * 17


def test_crowds_are_told_apart(shapes, drawn, predictions):
    annotations = figures.read_coco(shapes.instances('validation')).anns.values()
    image_id = next(a['image_id'] for a in annotations if a['iscrowd'])
    results = pickle.loads(predictions.read_bytes())
    predictions.write_bytes(pickle.dumps([results[image_id - 1]]))
    ((axes,), _) = drawn(draw_detections, config(DETECTOR, shapes), predictions)
    styles = {
        text: box.get_linestyle() for text, box in zip(texts(axes), axes.patches, strict=True)
    }
    assert {style for text, style in styles.items() if 'crowd' in text} == {':'}
    assert {style for text, style in styles.items() if 'crowd' not in text} == {'-'}


def test_objects_of_other_classes_are_left_out(shapes, drawn, predictions):
    detector = config(DETECTOR, shapes)
    detector.test_dataloader.dataset.metainfo.classes = ('box', 'disc', 'cross')
    upper, lower = drawn(draw_detections, detector, predictions)
    assert {text.split()[0] for axes in upper for text in texts(axes)} <= {'box', 'disc', 'cross'}
    assert texts(lower[0]) == ['disc 0.80']


def test_label_maps_are_drawn_below_their_image(shapes, tmp_path, drawn):
    files = sorted(shapes.labels('validation').glob('*.png'))
    for file in files[:3]:  # fewer than are drawn at most
        truth = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / file.name), np.full_like(truth, 2))
    images, truths, predicted = drawn(draw_segmentations, config(SEGMENTER, shapes), tmp_path)
    assert len(images) == 3
    for column, file in zip(zip(images, truths, predicted, strict=True), files, strict=False):
        image = cv2.imread(str(shapes.images('validation') / f'{file.stem}.jpg'))[..., ::-1]
        np.testing.assert_array_equal(column[0].images[0].get_array(), image)
        grey = 0.3 * image.mean(axis=2, keepdims=True) / 255
        truth, prediction = (axes.images[0].get_array() for axes in column[1:])
        np.testing.assert_allclose(prediction - grey, np.broadcast_to(0.7 * ORANGE, image.shape))
        is_ground = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) == 1
        blue = np.isclose(truth - grey, 0.7 * BLUE).all(axis=2)
        np.testing.assert_array_equal(blue, is_ground)


def test_pixels_of_no_class_get_the_last_colour(tmp_path):
    cv2.imwrite(str(tmp_path / 'map.png'), np.array([[0, 1, 2, 3, 4, 255]], np.uint8))
    red, green, black = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)
    painted = paint_labels(tmp_path / 'map.png', dict(cat=red, dog=green, unlabelled=black))
    np.testing.assert_array_equal(painted, [[black, red, green, black, black, black]])


@pytest.mark.parametrize('task', [DETECTOR, SEGMENTER])
def test_curves(drawn, task):
    history = History(
        losses={10: {'loss': 2.0, 'loss_a': 1.5}, 20: {'loss': 1.0, 'loss_a': 0.5, 'loss_b': 0.2}},
        metrics={20: {score.key: 0.5 * score.full for score in task.scores}},
    )
    ((left, right),) = drawn(draw_curves, task, history)
    losses = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(losses) == ['loss_a', 'loss_b', 'loss']
    np.testing.assert_array_equal(losses['loss'], [2.0, 1.0])
    np.testing.assert_array_equal(losses['loss_b'], [np.nan, 0.2])
    for measured, bar, score in zip(right.lines[::2], right.lines[1::2], task.scores, strict=True):
        assert (measured.get_xydata() == [20, 0.5]).all()
        assert set(bar.get_ydata()) == {score.bar}
    ((left, right),) = drawn(draw_curves, task, History())
    assert not left.lines
