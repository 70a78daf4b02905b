"""The set on disk: whole or absent, the same for a seed, and the same truth to every reader."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from demo.shapes import SEG_CLASSES, STUFF_CLASSES, THING_CLASSES, files, make_shapes
from demo.shapes.files import SPLITS, coco_annotation, write_image
from demo.shapes.scenes import Thing

SMALL = {'num_train': 4, 'num_val': 2}
TOOL = Path(__file__).parents[3] / 'demo' / 'make_shapes.py'


def digest(root):
    """Relative paths and contents of all files below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """The bytes of the set that SMALL and seed 0 make."""
    return digest(make_shapes(tmp_path_factory.mktemp('small') / 'set', **SMALL).root)


# --- One annotation


@settings(deadline=None, max_examples=50)
@given(
    mask=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any),
    crowd=st.booleans(),
)
def test_any_mask_survives_exactly(mask, crowd):
    annotation = coco_annotation(Thing('star', mask, crowd), annotation_id=7, image_id=5)
    assert json.loads(json.dumps(annotation)) == annotation
    coco = COCO()
    coco.imgs[5] = dict(zip(('height', 'width'), mask.shape, strict=True))
    np.testing.assert_array_equal(coco.annToMask(annotation), mask)
    assert annotation['area'] == mask.sum()
    rows, columns = np.nonzero(mask)
    left, top = columns.min(), rows.min()
    box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
    assert annotation['bbox'] == box
    assert annotation['iscrowd'] == crowd
    assert (annotation['id'], annotation['image_id'], annotation['category_id']) == (7, 5, 4)


def test_parts_are_polygons_of_their_own_with_as_many_corners_as_they_need():
    mask = np.zeros((10, 12), bool)
    mask[2:6, 3:9] = mask[8:, 11:] = True
    polygons = coco_annotation(Thing('box', mask, False), 1, 1)['segmentation']
    corners = [{tuple(corner) for corner in np.reshape(p, (-1, 2)).tolist()} for p in polygons]
    assert [len(polygon) for polygon in polygons] == [8, 8]
    assert {(3, 2), (9, 2), (9, 6), (3, 6)} in corners


@pytest.mark.parametrize(('hole', 'crowd'), [(True, False), (False, True)])
def test_holes_and_crowds_are_run_lengths(hole, crowd):
    mask = np.ones((6, 8), bool)
    mask[2, 3] = not hole
    segmentation = coco_annotation(Thing('ring', mask, crowd), 1, 1)['segmentation']
    assert segmentation['size'] == [6, 8] and sum(segmentation['counts']) == 48


def test_a_failed_write_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_image(tmp_path / 'nowhere' / 'a.png', np.zeros((4, 4), np.uint8))


# --- A set as others read it


def test_layout(shapes, small):
    numbered = [('training', i) for i in (1, 2, 3, 4)] + [('validation', i) for i in (1, 2)]
    assert set(small) == {
        *(f'images/{split}/{split}_{i:06d}.jpg' for split, i in numbered),
        *(f'annotations/{split}/{split}_{i:06d}.png' for split, i in numbered),
        *(f'annotations/instances_{split}.json' for split in SPLITS),
        'shapes.json',
    }
    recipe = json.loads((shapes.root / 'shapes.json').read_text())
    assert recipe['classes'] == list(SEG_CLASSES)
    assert (recipe['num_train'], recipe['num_val'], recipe['seed']) == (50, 30, 3)


@pytest.mark.parametrize('split', SPLITS)
def test_masks_and_label_maps_agree_in_every_pixel(shapes, split):
    coco = COCO(shapes.instances(split))
    classes = set()
    for image in coco.dataset['images']:
        label_file = (shapes.labels(split) / image['file_name']).with_suffix('.png')
        labels = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
        pixels = cv2.imread(str(shapes.images(split) / image['file_name']))
        assert labels.dtype == np.uint8
        assert labels.shape == pixels.shape[:2] == (image['height'], image['width'])
        painted = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not painted[mask].any()
            painted[mask] = annotation['category_id'] + len(STUFF_CLASSES)
        np.testing.assert_array_equal(painted, np.where(labels > len(STUFF_CLASSES), labels, 0))
        classes |= set(np.unique(labels).tolist())
    assert classes == set(range(len(SEG_CLASSES) + 1))
    annotations = coco.dataset['annotations']
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
            'score': 1.0,
            'bbox': a['bbox'],
            **({} if kind == 'bbox' else {'segmentation': truth.annToRLE(a)}),
        }
        for a in truth.anns.values()
        if not a['iscrowd']
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    np.testing.assert_allclose(evaluation.stats[:5], 1.0)  # AP, of small and medium ones too


def test_mmdet_and_mmseg_read_the_same_truth(shapes):
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations as LoadInstances
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations as LoadLabels

    detection = CocoDataset(
        data_root=str(shapes.root),
        ann_file='annotations/instances_training.json',
        data_prefix={'img': 'images/training/'},
        metainfo={'classes': THING_CLASSES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        pipeline=[LoadImageFromFile(), LoadInstances(with_bbox=True, with_mask=True)],
    )
    segmentation = BaseSegDataset(
        data_root=str(shapes.root),
        data_prefix={'img_path': 'images/training', 'seg_map_path': 'annotations/training'},
        metainfo={'classes': SEG_CLASSES},
        reduce_zero_label=True,
        pipeline=[LoadLabels()],
    )
    assert len(detection) == len(segmentation) == 50  # mmdet's filter keeps every image
    crowds = 0
    for index in range(50):
        instances = detection.pipeline(detection.get_data_info(index))
        labels = segmentation[index]
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


# --- The same bytes for a seed


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path, small):
    arguments = ['--root', tmp_path / 'there', '--num-train=4', '--num-val=2', '--seed=0']
    command = [sys.executable, TOOL, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / 'there') == small
    assert '6/6' in done.stderr and str(tmp_path / 'there') in done.stdout


def test_the_set_is_the_one_that_the_demo_was_measured_on(tmp_path):
    """Raise VERSION when this changes, and measure the demo anew."""
    labels = make_shapes(tmp_path / 'set', **SMALL).labels('training')
    maps = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(labels.iterdir())]
    drawn = hashlib.sha256(b''.join(labels.tobytes() for labels in maps)).hexdigest()
    assert (files.VERSION, drawn[:16]) == (1, 'c14103f8b90295ee')


def test_every_image_is_another_one_and_does_not_depend_on_the_counts(tmp_path, small):
    more = digest(make_shapes(tmp_path / 'more', num_train=5, num_val=3).root)
    other = digest(make_shapes(tmp_path / 'other', **SMALL, seed=6).root)
    pictures = {key: value for key, value in small.items() if not key.endswith('.json')}
    assert len(pictures) == 12 and pictures.items() <= more.items()
    images = [files[key] for files in (more, other) for key in files if key.endswith('.jpg')]
    assert len(images) == len(set(images)) == 14


# --- Whole or absent


def test_a_set_that_is_there_is_left_alone(tmp_path, monkeypatch):
    make_shapes(tmp_path / 'set', **SMALL)
    monkeypatch.setattr(files, 'draw_scene', None)  # drawing anything would now fail
    assert make_shapes(tmp_path / 'set', **SMALL).root == tmp_path / 'set'


def test_another_set_is_replaced_only_when_told_to(tmp_path, small):
    make_shapes(tmp_path / 'set', **SMALL, seed=1)
    before = digest(tmp_path / 'set')
    with pytest.raises(FileExistsError, match=r"'seed': 1.*--force"):
        make_shapes(tmp_path / 'set', **SMALL)
    assert digest(tmp_path / 'set') == before
    (tmp_path / 'set' / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'notes\.txt'):
        make_shapes(tmp_path / 'set', **SMALL, overwrite=True)
    assert (tmp_path / 'set' / 'notes.txt').read_text() == 'mine'
    (tmp_path / 'set' / 'notes.txt').unlink()
    make_shapes(tmp_path / 'set', **SMALL, overwrite=True)
    assert digest(tmp_path / 'set') == small
    assert {path.name for path in tmp_path.iterdir()} == {'set'}


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('broken', [None, '{', '[]', '{"format": "other"}'])
def test_a_folder_of_other_things_is_never_touched(tmp_path, overwrite, broken):
    (tmp_path / 'precious.txt').write_text('mine')
    if broken is not None:
        (tmp_path / 'shapes.json').write_text(broken)
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match='is not a shapes set'):
        make_shapes(tmp_path, **SMALL, overwrite=overwrite)
    assert digest(tmp_path) == before


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / 'set').write_text('mine')
    with pytest.raises(FileExistsError, match='set already exists'):
        make_shapes(tmp_path / 'set', **SMALL)
    with pytest.raises(OSError, match='set'):
        make_shapes(tmp_path / 'set' / 'below', **SMALL)


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError('disk full')])
@pytest.mark.parametrize('had_one', [False, True])
def test_interrupted_work_leaves_nothing_behind(tmp_path, monkeypatch, error, had_one, small):
    root = tmp_path / 'set'
    root.mkdir()  # an empty folder is used
    if had_one:
        make_shapes(root, **SMALL, seed=1)
    before = digest(tmp_path)
    calls = iter(range(5))

    def fail_at_the_sixth(path, image):
        if next(calls, None) is None:
            raise error
        path.write_bytes(b'')

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        patch.setattr(files, 'write_image', fail_at_the_sixth)
        make_shapes(root, **SMALL, overwrite=had_one)
    assert digest(tmp_path) == before
    make_shapes(root, **SMALL, overwrite=had_one)
    assert digest(root) == small


@pytest.mark.parametrize('same', [False, True])
def test_two_at_once(tmp_path, monkeypatch, same, small):
    """While one call works, another one finishes a set in the same place."""
    write_json = files.write_json

    def let_the_other_finish(path, content):
        write_json(path, content)
        if path.name == 'shapes.json':
            monkeypatch.setattr(files, 'write_json', write_json)
            make_shapes(tmp_path / 'set', **SMALL)

    monkeypatch.setattr(files, 'write_json', let_the_other_finish)
    if same:
        make_shapes(tmp_path / 'set', **SMALL)
    else:
        with pytest.raises(OSError, match='set'):
            make_shapes(tmp_path / 'set', **SMALL, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ['set']
    assert digest(tmp_path / 'set') == small


@pytest.mark.parametrize(
    ('name', 'value'), [('num_train', 0), ('num_val', -1), ('seed', -1), ('num_train', 2.5)]
)
def test_bad_numbers_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} must be an integer of at least'):
        make_shapes(tmp_path / 'set', **{**SMALL, name: value})
    assert not (tmp_path / 'set').exists()


def test_the_script_reports_errors_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--root', str(tmp_path / 'set'), '--num-val', '0'])
    monkeypatch.setattr(sys, 'path', ['', *sys.path])  # the script replaces the first
    with pytest.raises(SystemExit, match=r'^make_shapes: num_val must be .*, not 0$'):
        runpy.run_path(str(TOOL), run_name='__main__')
