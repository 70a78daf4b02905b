"""The configs, read once, and data small enough for every one of them to be tried on it."""

from __future__ import annotations

import importlib.util
import json
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from demo.shapes import STUFF_CLASSES, make_shapes

ROOT = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='session')
def load():
    """A function that reads a config, by its path below configs/, and gives a copy to change."""
    read = cache(Config.fromfile)
    return lambda name: deepcopy(read(ROOT / name))


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
    first_stuff = 1 + len(names['thing_classes'])
    for split in ('training', 'validation'):
        coco = COCO(shapes.instances(split))
        (root / split).mkdir()
        annotations = []
        for image in coco.imgs.values():
            name = Path(image['file_name']).with_suffix('.png').name
            labels = cv2.imread(str(shapes.labels(split) / name), cv2.IMREAD_UNCHANGED)
            segments = [
                (1000 + i, first_stuff + i, 0, (labels == 1 + i).astype(np.uint8))
                for i in range(len(STUFF_CLASSES))
            ]
            segments += [
                (thing['id'], thing['category_id'], thing['iscrowd'], coco.annToMask(thing))
                for thing in coco.imgToAnns[image['id']]
            ]
            ids = np.zeros(labels.shape, np.uint32)
            found = []
            for number, category, crowd, mask in segments:
                if mask.any():
                    ids[mask > 0] = number
                    box, area = list(cv2.boundingRect(mask)), int(mask.sum())
                    found.append(
                        dict(id=number, category_id=category, iscrowd=crowd, bbox=box, area=area)
                    )
            colours = np.stack([ids // 256**i % 256 for i in (2, 1, 0)], axis=-1)  # in BGR
            cv2.imwrite(str(root / split / name), colours.astype(np.uint8))
            annotations.append(dict(image_id=image['id'], file_name=name, segments_info=found))
        images = list(coco.imgs.values())
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def panopticapi(monkeypatch):
    """Give mmdet the one function that it needs to load panoptic maps.

    The package that has it is no release of the registry, only a repository; without it these
    configs could not be tried.
    """
    if 'panopticapi' in sys.modules or importlib.util.find_spec('panopticapi'):
        return
    package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
    utils.rgb2id = lambda colours: colours.astype(np.int64) @ [1, 256, 256**2]
    package.utils = utils
    monkeypatch.setitem(sys.modules, 'panopticapi', package)
    monkeypatch.setitem(sys.modules, 'panopticapi.utils', utils)
