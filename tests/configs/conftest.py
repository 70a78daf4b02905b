"""Data small enough for every config to be tried on it."""

import importlib.util
import json
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from demo.shapes import SEG_CLASSES, THING_CLASSES, make_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=4, num_val=2)


@pytest.fixture(scope='session')
def panoptic(shapes, tmp_path_factory):
    """Write the shapes as COCO-panoptic files, under COCO's names of things and stuff.

    Return the folder: `<split>.json`, and the maps in `<split>/`.
    """
    from mmdet.datasets import CocoPanopticDataset

    names = CocoPanopticDataset.METAINFO
    root = tmp_path_factory.mktemp('panoptic')
    categories = [
        {'id': 1 + i, 'name': name, 'isthing': int(name in names['thing_classes'])}
        for i, name in enumerate(names['classes'])
    ]
    stuff = {  # what is no thing in a label map, to COCO's first kinds of stuff
        1 + SEG_CLASSES.index(name): 1 + len(names['thing_classes']) + i
        for i, name in enumerate(n for n in SEG_CLASSES if n not in THING_CLASSES)
    }
    for split in ('training', 'validation'):
        coco = COCO(shapes.instances(split))
        (root / split).mkdir()
        annotations = []
        for image in coco.imgs.values():
            stem = image['file_name'].removesuffix('.jpg')
            labels = cv2.imread(str(shapes.labels(split) / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
            ids, segments = np.zeros(labels.shape, np.uint32), []
            for label, category in stuff.items():
                ids[labels == label] = 1000 + label
                segments.append(segment(1000 + label, category, labels == label))
            for thing in coco.imgToAnns[image['id']]:
                mask = coco.annToMask(thing).astype(bool)
                ids[mask] = thing['id']
                category = thing['category_id']
                segments.append(segment(thing['id'], category, mask, thing['iscrowd']))
            colours = np.stack([ids // 256**i % 256 for i in (2, 1, 0)], axis=-1)  # in BGR
            cv2.imwrite(str(root / split / f'{stem}.png'), colours.astype(np.uint8))
            annotations.append(
                {
                    'image_id': image['id'],
                    'file_name': f'{stem}.png',
                    'segments_info': [s for s in segments if (ids == s['id']).any()],
                }
            )
        content = {
            'images': list(coco.imgs.values()),
            'annotations': annotations,
            'categories': categories,
        }
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


def segment(number, category, mask, crowd=0):
    rows, columns = np.nonzero(mask)
    box = [0, 0, 0, 0]
    if rows.size:
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
    return {
        'id': number,
        'category_id': category,
        'iscrowd': crowd,
        'bbox': box,
        'area': int(mask.sum()),
    }


@pytest.fixture
def panopticapi(monkeypatch):
    """Give mmdet the one function that it needs to load panoptic maps.

    The package that has it is no release of the registry, only a repository; without it these
    configs could not be tried.
    """
    if 'panopticapi' in sys.modules or importlib.util.find_spec('panopticapi'):
        return
    package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')

    def rgb2id(colours):
        red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
        return red + 256 * green + 256**2 * blue

    utils.rgb2id = rgb2id
    package.utils = utils
    monkeypatch.setitem(sys.modules, 'panopticapi', package)
    monkeypatch.setitem(sys.modules, 'panopticapi.utils', utils)
