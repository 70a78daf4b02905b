from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from demo.shapes.files import coco_annotation, write_image
from demo.shapes.scenes import Thing


def decode(annotation, shape):
    """A mask from an annotation, by pycocotools alone, as `COCO.annToMask` does it."""
    rles = coco_mask.frPyObjects(annotation['segmentation'], *shape)
    return coco_mask.decode(coco_mask.merge(rles) if isinstance(rles, list) else rles).astype(bool)


@settings(deadline=None)
@given(
    mask=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any),
    crowd=st.booleans(),
)
def test_any_mask_survives_exactly(mask, crowd):
    annotation = coco_annotation(Thing('star', mask, crowd), annotation_id=7, image_id=5)
    assert json.loads(json.dumps(annotation)) == annotation
    np.testing.assert_array_equal(decode(annotation, mask.shape), mask)
    assert annotation['area'] == mask.sum()
    rows, columns = np.nonzero(mask)
    left, top = columns.min(), rows.min()
    box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
    assert annotation['bbox'] == box
    assert annotation['iscrowd'] == crowd
    assert (annotation['id'], annotation['image_id'], annotation['category_id']) == (7, 5, 4)


def test_a_rectangle_is_one_polygon_of_its_four_corners():
    mask = np.zeros((10, 12), bool)
    mask[2:6, 3:9] = True
    (polygon,) = coco_annotation(Thing('box', mask, False), 1, 1)['segmentation']
    corners = {tuple(corner) for corner in np.reshape(polygon, (-1, 2)).tolist()}
    assert len(polygon) == 8 and corners == {(3, 2), (9, 2), (9, 6), (3, 6)}


def test_parts_are_polygons_of_their_own():
    mask = np.zeros((10, 12), bool)
    mask[:3, :3] = mask[6:, 8:] = True
    assert len(coco_annotation(Thing('box', mask, False), 1, 1)['segmentation']) == 2


@pytest.mark.parametrize(('hole', 'crowd'), [(True, False), (False, True)])
def test_holes_and_crowds_are_run_lengths(hole, crowd):
    mask = np.ones((6, 8), bool)
    mask[2, 3] = not hole
    segmentation = coco_annotation(Thing('ring', mask, crowd), 1, 1)['segmentation']
    assert segmentation['size'] == [6, 8] and sum(segmentation['counts']) == 48


def test_a_failed_write_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_image(tmp_path / 'nowhere' / 'a.png', np.zeros((4, 4), np.uint8))
