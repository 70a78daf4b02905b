from __future__ import annotations

import shutil

import cv2
import pytest
import torch

from hiera_mm.engine import CheckpointError, ConfigError, DataError, predict
from hiera_mm.engine.inference import find_images


@pytest.mark.parametrize('name', ['trained_detector', 'trained_segmenter'])
def test_folder(name, request, shapes, tmp_path, logged):
    task = request.getfixturevalue(name)
    folder = tmp_path / 'images'
    shutil.copytree(shapes.images('validation'), folder)
    source = {path.name: cv2.imread(str(path)).astype(float) for path in folder.iterdir()}
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'empty.png').touch()
    (folder / 'notes.txt').touch()
    (folder / 'moving.gif').touch()
    options = dict(task.options)
    if name == 'trained_segmenter':
        options['visualizer'] = None  # then the toolbox's own
    found = predict(
        task.config,
        task.checkpoint,
        folder,
        tmp_path / 'out',
        score_thr=0.0,
        cfg_options=options,
    )
    assert any('are taken: moving.gif' in line for line in logged)
    assert [path.name for path in found.failed] == ['broken.jpg', 'empty.png']
    assert len(found.drawings) == 2
    for drawing in found.drawings:
        change = abs(cv2.imread(str(drawing)) - source[drawing.name])
        assert change.max() > 50  # more than saving it again as JPEG does
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        path.name for path in found.drawings
    )


def test_a_drawing_that_fails_does_not_end_the_others(
    trained_segmenter, shapes, tmp_path, monkeypatch
):
    from mmseg.visualization import SegLocalVisualizer

    first, second = find_images(shapes.images('validation'))
    original = SegLocalVisualizer.add_datasample

    def full_disk(self, name, *args, **kwargs):
        if name == first.name:
            raise OSError('No space left on device')
        return original(self, name, *args, **kwargs)

    monkeypatch.setattr(SegLocalVisualizer, 'add_datasample', full_disk)
    found = predict(
        trained_segmenter.config,
        trained_segmenter.checkpoint,
        first.parent,
        tmp_path,
        cfg_options=trained_segmenter.options,
    )
    assert found.failed == {first: 'No space left on device'}
    assert [path.name for path in found.drawings] == [second.name]


def test_score_threshold(trained_detector, shapes, tmp_path, monkeypatch):
    from mmdet.visualization import DetLocalVisualizer

    seen = []
    original = DetLocalVisualizer.add_datasample

    def spy(self, *args, **kwargs):
        seen.append(kwargs['pred_score_thr'])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DetLocalVisualizer, 'add_datasample', spy)
    image = find_images(shapes.images('validation'))[0]
    found = predict(
        trained_detector.config,
        trained_detector.checkpoint,
        image,
        tmp_path,
        score_thr=0.7,
        cfg_options=trained_detector.options,
        device='cpu',
    )
    assert seen == [0.7]
    assert [path.name for path in found.drawings] == [image.name]


def test_checkpoints_that_are_refused(trained_detector, segmenter, shapes, trap, tmp_path):
    path, marker = trap()
    for checkpoint, message in [
        (trained_detector.checkpoint, 'belongs to another model'),
        (path, 'nothing in it was run'),
    ]:
        with pytest.raises(CheckpointError, match=message):
            predict(
                segmenter.config,
                checkpoint,
                shapes.images('validation'),
                tmp_path / 'out',
                cfg_options=segmenter.options,
            )
    assert not marker.exists()


def test_source_without_images(tmp_path):
    with pytest.raises(DataError, match=r'has no images \(\.jpg, '):
        find_images(tmp_path)
    with pytest.raises(DataError, match='No image or folder'):
        find_images(tmp_path / 'none')


def test_impossible_output(detector, shapes, tmp_path):
    images = shapes.images('validation')
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file', tmp_path / 'file' / 'deeper'):
        with pytest.raises(ConfigError, match=r'Cannot write to the folder .*file'):
            predict(detector.config, 'x.pth', images, out)
    with pytest.raises(ConfigError, match='would replace them'):
        predict(detector.config, 'x.pth', images, images)


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_impossible_device(trained_segmenter, shapes, tmp_path):
    with pytest.raises(ConfigError, match='--device cuda:0'):
        predict(
            trained_segmenter.config,
            trained_segmenter.checkpoint,
            shapes.images('validation'),
            tmp_path,
            device='cuda:0',
            cfg_options=trained_segmenter.options,
        )


def test_other_toolbox(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmpose'\nmodel = dict()\ntest_dataloader = dict()\n")
    with pytest.raises(ConfigError, match="default_scope = 'mmpose'"):
        predict(config, 'x.pth', tmp_path, tmp_path)
