from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo.shapes.preview import COLOURS, draw_preview
from demo.shapes.scenes import SEG_CLASSES


def test_every_class_has_a_colour_of_its_own():
    assert tuple(COLOURS) == ('unlabelled', *SEG_CLASSES)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_preview_shows_images_above_their_label_maps(shapes, tmp_path):
    draw_preview(shapes, tmp_path / 'sheet.png', split='validation', image_ids=[2, 5])
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    sizes = [
        cv2.imread(str(shapes.images('validation') / f'validation_{i:06d}.jpg')).shape[:2]
        for i in (2, 5)
    ]
    heights, widths = np.array(sizes).T
    assert sheet.shape[0] >= 2 * 1.5 * heights.max()
    assert sheet.shape[1] >= 1.5 * widths.sum()
    ground = (sheet == np.array(COLOURS['ground']) | 7).all(axis=2)
    assert ground[sheet.shape[0] // 2 :].mean() > 0.05 > ground[: sheet.shape[0] // 2].mean()


def test_an_unknown_image_raises(shapes, tmp_path):
    with pytest.raises(KeyError):
        draw_preview(shapes, tmp_path / 'sheet.png', image_ids=[1000])
