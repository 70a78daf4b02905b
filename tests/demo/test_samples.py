from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from demo.samples import read_detections, read_segmentations
from demo.shapes import SEG_CLASSES, THING_CLASSES, make_shapes


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=1, num_val=6)


def config(shapes, classes, **dataset):
    metainfo = {'classes': classes}
    dataset = {'data_root': f'{shapes.root}/', 'metainfo': metainfo, **dataset}
    return Config({'test_dataloader': {'dataset': dataset}})


@pytest.fixture
def detector(shapes):
    return config(
        shapes,
        THING_CLASSES,
        ann_file='annotations/instances_validation.json',
        data_prefix={'img': 'images/validation/'},
    )


@pytest.fixture
def segmenter(shapes):
    prefix = {'img_path': 'images/validation/', 'seg_map_path': 'annotations/validation/'}
    return config(shapes, SEG_CLASSES, data_prefix=prefix, img_suffix='.jpg', seg_map_suffix='.png')


def dump(shapes, file):
    """Write what mmdet would for a detector that finds one object twice, once hardly."""
    from pycocotools import mask as rle

    results = []
    for image_id in range(1, 7):
        image = cv2.imread(str(shapes.images('validation') / f'validation_{image_id:06d}.jpg'))
        mask = np.zeros(image.shape[:2], np.uint8, order='F')
        mask[2:10, 3:20] = 1
        found = {
            'labels': np.array([1, 2]),
            'bboxes': np.array([[3.0, 2.0, 20.0, 10.0]] * 2),
            'masks': [rle.encode(mask)] * 2,
            'scores': np.array([0.8, 0.2]),
        }
        results.append({'img_id': image_id, 'pred_instances': found})
    file.write_bytes(pickle.dumps(results))


def test_detections_beside_their_truth(shapes, detector, tmp_path):
    dump(shapes, tmp_path / 'predictions.pkl')
    samples = read_detections(detector, tmp_path / 'predictions.pkl', 3, min_score=0.5)
    assert len(samples) == 3
    third = cv2.imread(str(shapes.images('validation') / 'validation_000003.jpg'))
    assert np.array_equal(samples[1].image, third[..., ::-1])
    for sample in samples:
        (found,) = sample.predicted
        assert (found.label, found.box, found.score) == (1, (3.0, 2.0, 20.0, 10.0), 0.8)
        assert found.mask.sum() == 8 * 17
        assert found.mask[2:10, 3:20].all()
    assert any(sample.truth for sample in samples)


def test_truth_has_the_labels_of_the_label_maps(shapes, detector, tmp_path):
    dump(shapes, tmp_path / 'predictions.pkl')
    samples = read_detections(detector, tmp_path / 'predictions.pkl', 6, min_score=0.5)
    seen = 0
    for index, sample in enumerate(samples, start=1):
        file = shapes.labels('validation') / f'validation_{index:06d}.png'
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        for instance in sample.truth:
            if not instance.crowd:
                seen += 1
                name = THING_CLASSES[instance.label]
                inside = labels[instance.mask] == 1 + SEG_CLASSES.index(name)
                assert inside.mean() > 0.8
                x1, y1, x2, y2 = instance.box
                assert instance.mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].any()
    assert seen > 3


def test_objects_of_other_classes_are_left_out(shapes, detector, tmp_path):
    dump(shapes, tmp_path / 'predictions.pkl')
    detector.test_dataloader.dataset.metainfo.classes = THING_CLASSES[:1]
    samples = read_detections(detector, tmp_path / 'predictions.pkl', 6, min_score=0.5)
    assert {instance.label for sample in samples for instance in sample.truth} <= {0}


def test_label_maps_beside_their_truth(shapes, segmenter, tmp_path):
    for file in shapes.labels('validation').glob('*.png'):
        truth = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / file.name), np.full_like(truth, 7))
    samples = read_segmentations(segmenter, tmp_path, 2)
    assert len(samples) == 2
    for number, sample in zip((1, 4), samples, strict=True):
        file = shapes.labels('validation') / f'validation_{number:06d}.png'
        assert np.array_equal(sample.truth, cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
        assert (sample.predicted == 7).all()
        assert sample.image.shape == (*sample.truth.shape, 3)


def test_fewer_images_than_asked_for(shapes, segmenter, tmp_path):
    file = next(shapes.labels('validation').glob('*.png'))
    (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(read_segmentations(segmenter, tmp_path, 5)) == 1
