"""Shared by the tests of pretraining: a few images in nested folders."""

from __future__ import annotations

import cv2
import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path):
    """Eight images of several sizes and kinds, in two folders."""
    draw = np.random.default_rng(0)
    root = tmp_path / 'images'
    (root / 'more' / 'deep').mkdir(parents=True)
    for number in range(8):
        place = root if number % 2 else root / 'more' / 'deep'
        height, width = draw.integers(40, 90, 2)
        image = draw.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(place / f'{number}.{"jpg" if number % 3 else "PNG"}'), image)
    return root
