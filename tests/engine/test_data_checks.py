from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from torch import nn

from hiera_mm.engine import ConfigError, DataError
from hiera_mm.engine.data_checks import check_data, check_heads

CLASSES = ('disc', 'square', 'triangle')
LOADING = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]


def config(scope: str, defaults: dict[str, Any], changes: dict[str, Any]) -> Config:
    dataset = {'metainfo': dict(classes=CLASSES), **defaults, **changes}
    return Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))


def coco_config(root: Path | str, **changes: Any) -> Config:
    defaults = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=[dict(type='NotBuiltHere')],
    )
    return config('mmdet', defaults, changes)


def seg_config(root: Path | str, **changes: Any) -> Config:
    defaults = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        reduce_zero_label=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    return config('mmseg', defaults, changes)


@pytest.fixture
def coco_file(tmp_path):
    """A COCO set of three images; the fixture rewrites parts of its file."""
    (tmp_path / 'images').mkdir()
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=8, height=8) for i in range(3)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        annotations=[dict(id=1, image_id=0, category_id=1, bbox=[0, 0, 4, 4], area=16)],
    )
    for image in content['images']:
        (tmp_path / 'images' / image['file_name']).touch()

    def write(**changes: Any) -> Path:
        (tmp_path / 'train.json').write_text(json.dumps({**content, **changes}))
        return tmp_path

    return write


@pytest.fixture
def label_maps(tmp_path):
    """A set of three images with label maps; the fixture writes them with some values."""

    def write(values: list[int], shape: tuple[int, ...] = (4, 4)) -> Path:
        for folder in ('images', 'labels'):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name in 'abc':
            Image.new('RGB', (4, 4)).save(tmp_path / 'images' / f'{name}.jpg')
            Image.fromarray(np.resize(np.uint8(values), shape)).save(
                tmp_path / 'labels' / f'{name}.png'
            )
        return tmp_path

    return write


def check(cfg: Config) -> tuple[str, ...] | None:
    return check_data(cfg, ('train', 'val'))


class TestPaths:
    def test_missing_root(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError) as caught:
            check(coco_config('data/none'))
        message = str(caught.value)
        assert f'Looked for: {tmp_path}/data/none' in message
        assert 'train_dataloader.dataset.data_root' in message
        assert 'start from the current folder' in message
        assert 'train.json  (annotations)\n  images/  (img)' in message

    def test_missing_root_of_a_segmenter_and_in_a_wrapper(self, tmp_path):
        cfg = seg_config(tmp_path / 'none')
        cfg.train_dataloader.dataset = dict(
            type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset
        )
        with pytest.raises(DataError, match=r'images  \(img_path\)\n  labels  \(seg_map_path\)'):
            check(cfg)

    def test_root_changed_too_late(self, tmp_path):
        cfg = coco_config('data/old')
        cfg.data_root = str(tmp_path)
        with pytest.raises(DataError, match=r'does not follow.*change the line in a copy'):
            check(cfg)

    def test_missing_annotation_file_or_image_folder(self, coco_file):
        with pytest.raises(DataError, match=r'annotation file .*/val\.json does not exist'):
            check(coco_config(coco_file(), ann_file='val.json'))
        with pytest.raises(DataError, match=r'Named by: train_dataloader.dataset.data_prefix.img'):
            check(coco_config(coco_file(), data_prefix=dict(img='pictures')))

    def test_missing_file_of_the_evaluator(self, coco_file):
        cfg = coco_config(coco_file())
        cfg.val_dataloader = cfg.train_dataloader
        cfg.val_evaluator = [dict(type='CocoMetric', ann_file='none.json')]
        with pytest.raises(DataError, match=r'val_evaluator.ann_file none\.json does not exist'):
            check(cfg)

    def test_dataset_that_cannot_be_set_up(self, coco_file):
        with pytest.raises(ConfigError, match=r'CocoDataset cannot be set up: .*no_such_option'):
            check(coco_config(coco_file(), no_such_option=1))


class TestCoco:
    def test_good_file(self, coco_file, logged):
        assert check(coco_config(coco_file())) == CLASSES
        assert not logged

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('{"images": [1, 2', r'not JSON: .* at line 1, column \d+'),
            ('<html>', "begins with '<html>'"),
            ('', 'It is empty'),
            ('[1]', 'not in COCO format.*images, categories at the top.*has list'),
            ('{"images": [{}], "categories": [], "annotations": []}', "no 'file_name'"),
            ('{"info": 1, "images": []}', 'needs lists called categories at the top'),
            ('\x89PNG\xff\xfe', 'not even text'),
        ],
    )
    def test_not_json_or_not_coco(self, coco_file, text, message):
        root = coco_file()
        (root / 'train.json').write_text(text, encoding='latin-1')
        with pytest.raises(DataError, match=message):
            check(coco_config(root))

    def test_classes_that_do_not_match(self, coco_file):
        with pytest.raises(DataError) as caught:
            check(coco_config(coco_file(), metainfo=dict(classes=('Square', 'disc', 'star'))))
        assert str(caught.value).splitlines()[1:5] == [
            'Classes in the config (3): Square, disc, star',
            'Categories in the file (3): disc, square, triangle',
            'Only in the config: Square, star',
            'Only in the file: square, triangle',
        ]
        # Nor do the classes of COCO itself pass for others.
        with pytest.raises(DataError, match=r'Classes in the config \(80\): person, bicycle'):
            check(coco_config(coco_file(), metainfo=None))

    def test_some_that_the_file_lacks(self, coco_file, logged):
        classes = ('disc', 'Square', 'star')
        assert check(coco_config(coco_file(), metainfo=dict(classes=classes))) == classes
        assert 'lacks 2 classes' in logged[0]
        assert 'leaves out 2 categories' in logged[1]

    def test_other_order(self, coco_file):
        classes = ('square', 'disc', 'triangle')
        with pytest.raises(DataError, match=r"Write .*classes = \('disc', 'square', 'triangle'\)"):
            check(coco_config(coco_file(), metainfo=dict(classes=classes)))

    def test_one_of_the_classes(self, coco_file, logged):
        assert check(coco_config(coco_file(), metainfo=dict(classes=('disc',)))) == ('disc',)
        assert 'leaves out 2 categories' in logged[0]
        # mmdet takes a text for the one class that it names.
        assert check(coco_config(coco_file(), metainfo=dict(classes='disc'))) == ('disc',)

    def test_nothing_to_learn(self, coco_file, logged):
        assert check(coco_config(coco_file(annotations=[]))) == CLASSES
        assert 'no annotation of any class' in logged[0]
        with pytest.raises(DataError, match='lists no images'):
            check(coco_config(coco_file(images=[])))

    def test_test_set_without_annotations(self, coco_file):
        cfg = coco_config(coco_file(annotations=None), test_mode=True)
        cfg.test_dataloader = cfg.pop('train_dataloader')
        assert check_data(cfg, ('test',)) == CLASSES

    def test_a_class_without_category(self, coco_file, logged):
        assert check(coco_config(coco_file(), metainfo=dict(classes=(*CLASSES, 'star'))))
        assert 'lacks 1 classes' in logged[0]
        with pytest.raises(DataError, match=r"classes = \('disc', 'square', 'triangle', 'star'\)"):
            check(coco_config(coco_file(), metainfo=dict(classes=('star', *CLASSES))))

    def test_missing_image(self, coco_file):
        root = coco_file()
        (root / 'images' / '1.jpg').unlink()
        with pytest.raises(
            DataError, match=r'lists the image 1\.jpg.*Looked for: .*/images/1\.jpg'
        ):
            check(coco_config(root))


class TestOtherDataSets:
    """What mmengine can load is not refused, and not warned of."""

    @pytest.fixture
    def pictures(self, coco_file):
        """The COCO set, with pictures that can be read."""

        def write(folder: str = 'images', **changes: Any) -> Path:
            root = coco_file(**changes)
            for i in range(3):
                path = root / folder / f'{i}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new('RGB', (8, 8)).save(path)
            return root

        return write

    def test_lvis_names_images_by_their_address(self, pictures, logged):
        address = 'http://images.cocodataset.org/train2017/{}.jpg'
        images = [dict(id=i, coco_url=address.format(i), width=8, height=8) for i in range(3)]
        root = pictures('images/train2017', images=images)
        assert check(coco_config(root, type='LVISV1Dataset')) == CLASSES
        assert not logged

    def test_objects365_rewrites_names(self, pictures, logged):
        images = [
            dict(id=i, file_name=f'images/v1/patch0/{i}.jpg', width=8, height=8) for i in range(3)
        ]
        root = pictures('images/patch0', images=images)
        assert check(coco_config(root, type='Objects365V2Dataset')) == CLASSES
        assert not logged

    def test_constructor_that_asks_for_more(self, pictures, logged):
        from mmdet.datasets import CocoDataset

        class Strict(CocoDataset):
            def __init__(self, *, ann_file, data_root, data_prefix, metainfo, pipeline, year):
                if not pipeline:
                    raise ValueError('a pipeline is needed')
                super().__init__(
                    ann_file=ann_file,
                    data_root=data_root,
                    data_prefix=data_prefix,
                    metainfo=metainfo,
                    pipeline=pipeline,
                )

        cfg = coco_config(pictures(), type=Strict, year=2026, pipeline=LOADING)
        check(cfg)
        assert not logged
        cfg.train_dataloader.dataset.pop('year')
        with pytest.raises(ConfigError, match='year'):
            check(cfg)

    def test_folder_that_is_never_read(self, pictures, logged):
        prefix = dict(img='images', seg='none')
        cfg = coco_config(pictures(), data_prefix=prefix, pipeline=LOADING)
        check(cfg)
        assert 'folder' in logged[0]
        assert 'can be loaded all the same' in logged[0]

    def test_root_that_is_not_used(self, pictures, logged):
        root = pictures()
        ann_file, images = str(root / 'train.json'), str(root / 'images')
        cfg = coco_config('none', ann_file=ann_file, data_prefix=dict(img=images))
        assert check(cfg) == CLASSES
        assert not logged


class TestLabelMaps:
    def test_good_maps(self, label_maps):
        assert check(seg_config(label_maps([0, 1, 3, 255]))) == CLASSES
        assert check(seg_config(label_maps([0, 2, 255]), reduce_zero_label=False)) == CLASSES

    @pytest.mark.parametrize(('values', 'reduce', 'wrong'), [([0, 4, 9], True, '3, 8'),
                                                            ([0, 3], False, '3')])  # fmt: skip
    def test_values_of_no_class(self, label_maps, values, reduce, wrong):
        cfg = seg_config(label_maps(values), reduce_zero_label=reduce)
        with pytest.raises(DataError, match=rf'has the labels {wrong} after loading'):
            check(cfg)
        cfg.model = dict(decode_head=dict(num_classes=9))  # knows more than the data set names
        assert check(cfg) == CLASSES

    def test_part_of_a_known_class_list(self, label_maps):
        """The maps keep the numbers of all 150 classes of ADE20K."""
        cfg = seg_config(
            label_maps([0, 1, 150]), type='ADE20KDataset', metainfo=dict(classes=('wall', 'sky'))
        )
        cfg.train_dataloader.dataset.pop('reduce_zero_label')
        assert check(cfg) == ('wall', 'sky')

        cfg.train_dataloader.dataset.metainfo.classes = CLASSES
        with pytest.raises(ConfigError, match=r'ADE20KDataset cannot be set up.*not a subset'):
            check(cfg)

    def test_colours(self, label_maps, logged):
        assert check(seg_config(label_maps([1], shape=(4, 4, 3)), reduce_zero_label=False))
        assert 'colours must be turned into numbers' in logged[0]

    def test_missing_or_unreadable_map(self, label_maps):
        root = label_maps([1])
        (root / 'labels' / 'b.png').write_text('no image')
        with pytest.raises(DataError, match=r'cannot be loaded(.|\n)*labels/b\.png'):
            check(seg_config(root))
        (root / 'labels' / 'b.png').unlink()
        missing = r'No such file(.|\n)*labels/b\.png(.|\n)*seg_map_suffix'
        with pytest.raises(DataError, match=missing):
            check(seg_config(root))

    def test_other_ending(self, label_maps):
        with pytest.raises(DataError, match=r"ends in '\.jpeg' \(it has 3 \.jpg\)"):
            check(seg_config(label_maps([1]), img_suffix='.jpeg'))

    def test_split_file(self, label_maps):
        root = label_maps([1])
        (root / 'train.txt').write_text('a\nb\n')
        assert check(seg_config(root, ann_file='train.txt')) == CLASSES
        (root / 'train.txt').write_text('a\nx\n')
        with pytest.raises(DataError, match=r'No such file.*x\.jpg'):
            check(seg_config(root, ann_file='train.txt'))

    def test_images_in_folders(self, label_maps):
        root = label_maps([1])
        for folder, ending in (('images', 'jpg'), ('labels', 'png')):
            (root / folder / 'deep').mkdir()
            shutil.move(root / folder / f'a.{ending}', root / folder / 'deep' / f'a.{ending}')
        assert check(seg_config(root)) == CLASSES


def test_generated_shapes_pass(detector, segmenter):
    for task in (detector, segmenter):
        cfg = Config.fromfile(task.config)
        cfg.merge_from_dict(task.options)
        assert len(check_data(cfg, ('train', 'val', 'test'))) >= 5


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


def test_heads(logged):
    model = nn.ModuleDict(dict(rpn_head=Head(1), backbone=Head(1000), roi_head=Head(3)))
    check_heads(model, CLASSES)
    assert not logged
    check_heads(model, CLASSES[:2])
    assert (
        'model.roi_head.num_classes is 3. Set num_classes=2 there unless it is meant' in logged[0]
    )
    check_heads(model, [*CLASSES, 'star'])
    assert 'roi_head.num_classes is 3. Set num_classes=4' in logged[1]
