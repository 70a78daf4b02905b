from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo.shapes import SEG_CLASSES
from demo.shapes.preview import COLOURS, draw_preview


def test_every_class_has_a_colour_of_its_own():
    assert tuple(COLOURS) == (*SEG_CLASSES, 'unlabelled')
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_preview_shows_images_above_their_label_maps(shapes, tmp_path):
    draw_preview(shapes, tmp_path / 'sheet.png', split='validation', image_ids=[2, 5])
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))[..., ::-1] / 255
    ground = np.abs(sheet - COLOURS['ground']).max(axis=2) < 0.01
    upper, _, lower = np.array_split(ground[: int(0.9 * len(ground))], 3)  # without the legend
    assert lower.mean() > 0.05 > upper.mean()


def test_an_unknown_image_raises(shapes, tmp_path):
    with pytest.raises(KeyError):
        draw_preview(shapes, tmp_path / 'sheet.png', image_ids=[1000])
