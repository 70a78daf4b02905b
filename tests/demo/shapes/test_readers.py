"""The files as the toolboxes and pycocotools read them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from demo.shapes import SEG_CLASSES, STUFF_CLASSES, THING_CLASSES

SPLITS = ('training', 'validation')


def things_of(labels):
    """A label map reduced to its things: 0 elsewhere, class `i` of `THING_CLASSES` is `i + 1`."""
    return np.where(labels > len(STUFF_CLASSES), labels - len(STUFF_CLASSES), 0)


@pytest.mark.parametrize('split', SPLITS)
def test_masks_and_label_maps_agree_in_every_pixel(shapes, split):
    coco = COCO(shapes.instances(split))
    for image in coco.dataset['images']:
        labels = cv2.imread(
            str((shapes.labels(split) / image['file_name']).with_suffix('.png')),
            cv2.IMREAD_UNCHANGED,
        )
        assert labels.shape == (image['height'], image['width'])
        painted = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not painted[mask].any()
            painted[mask] = annotation['category_id']
        np.testing.assert_array_equal(painted, things_of(labels))


@pytest.mark.parametrize('split', SPLITS)
def test_both_kinds_of_segmentation_and_crowds_occur(shapes, split):
    annotations = list(COCO(shapes.instances(split)).anns.values())
    ordinary = [a for a in annotations if not a['iscrowd']]
    assert len(ordinary) < len(annotations)
    with_polygons = np.mean([isinstance(a['segmentation'], list) for a in ordinary])
    assert 0.6 < with_polygons < 0.95
    assert all(isinstance(a['segmentation'], dict) for a in annotations if a['iscrowd'])


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_the_truth_scores_one(shapes, kind):
    truth = COCO(shapes.instances('validation'))
    found = [
        {
            'image_id': a['image_id'],
            'category_id': a['category_id'],
            'bbox': a['bbox'],
            'segmentation': coco_mask.encode(np.asfortranarray(truth.annToMask(a))),
            'score': 1.0,
        }
        for a in truth.anns.values()
        if not a['iscrowd']
    ]
    if kind == 'bbox':
        for result in found:
            del result['segmentation']
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    np.testing.assert_allclose(evaluation.stats[:5], 1.0)  # AP, of small and medium ones too


@pytest.mark.parametrize('split', SPLITS)
def test_mmdet_and_mmseg_read_the_same_truth(shapes, split):
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations as LoadInstances
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations as LoadLabels

    detection = CocoDataset(
        data_root=str(shapes.root),
        ann_file=f'annotations/instances_{split}.json',
        data_prefix={'img': f'images/{split}/'},
        metainfo={'classes': THING_CLASSES},
        pipeline=[LoadImageFromFile(), LoadInstances(with_bbox=True, with_mask=True)],
        test_mode=True,
    )
    segmentation = BaseSegDataset(
        data_root=str(shapes.root),
        data_prefix={'img_path': f'images/{split}', 'seg_map_path': f'annotations/{split}'},
        metainfo={'classes': SEG_CLASSES},
        reduce_zero_label=True,
        pipeline=[LoadLabels()],
    )
    assert len(detection) == len(segmentation) == len(list(shapes.images(split).iterdir()))
    crowds = 0
    for instances, labels in zip(detection, segmentation, strict=True):
        assert instances['img_path'] == labels['img_path']
        seg_map = labels['gt_seg_map']
        painted = np.full_like(seg_map, 255)
        for mask, label in zip(
            instances['gt_masks'].masks, instances['gt_bboxes_labels'], strict=True
        ):
            painted[mask == 1] = len(STUFF_CLASSES) + label
        is_thing = (seg_map >= len(STUFF_CLASSES)) & (seg_map != 255)
        np.testing.assert_array_equal(painted, np.where(is_thing, seg_map, 255))
        crowds += instances['gt_ignore_flags'].sum()
        assert not instances['gt_ignore_flags'].all()
    assert crowds > 0


def test_mmdet_keeps_every_training_image(shapes):
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        data_root=str(shapes.root),
        ann_file='annotations/instances_training.json',
        data_prefix={'img': 'images/training/'},
        metainfo={'classes': THING_CLASSES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
    )
    assert len(dataset) == 90
