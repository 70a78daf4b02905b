from __future__ import annotations

import numpy as np
import pytest

from demo.shapes.outlines import OUTLINES, THING_CLASSES, area, place, rasterise


@pytest.mark.parametrize('name', THING_CLASSES)
def test_outline_fills_its_box(name):
    rim = OUTLINES[name][0]
    np.testing.assert_allclose(rim.min(axis=0), -1)
    np.testing.assert_allclose(rim.max(axis=0), 1)


@pytest.mark.parametrize('name', THING_CLASSES)
@pytest.mark.parametrize('angle', [0.0, 0.7, 2.5])
def test_rasterised_area_is_the_outlines_area(name, angle):
    loops = place(name, (60.3, 50.8), (80, 55), angle)
    assert rasterise(loops, 110, 120).sum() == pytest.approx(area(loops), rel=0.02)


def test_known_areas():
    assert area(place('box', (0, 0), (10, 4), 1.0)) == pytest.approx(40)
    assert area(place('triangle', (0, 0), (10, 4), 1.0)) == pytest.approx(20)
    assert area(place('disc', (0, 0), (10, 4), 1.0)) == pytest.approx(10 * np.pi, rel=0.01)


def test_turn_and_stretch():
    flat = rasterise(place('box', (20, 20), (24, 8), 0.0), 40, 40)
    upright = rasterise(place('box', (20, 20), (24, 8), np.pi / 2), 40, 40)
    assert flat[16:24, 8:32].all() and flat.sum() == 24 * 8
    np.testing.assert_array_equal(upright, flat.T)


def test_ring_has_a_hole():
    ring = rasterise(place('ring', (20, 20), (30, 30), 0.0), 40, 40)
    assert not ring[20, 20] and ring[20, 7]


def test_what_leaves_the_image_is_cut_off():
    mask = rasterise(place('box', (0, 20), (20, 20), 0.0), 40, 40)
    assert mask[10:30, :10].all() and mask.sum() == 200


def test_classes_differ_at_the_smallest_size():
    """Upright and turned by any angle, no two classes give nearly the same tiny mask."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    masks = {
        name: [rasterise(place(name, (10.5, 10.5), (11, 11), angle), 21, 21) for angle in angles]
        for name in THING_CLASSES
    }
    for i, first in enumerate(THING_CLASSES):
        for second in THING_CLASSES[i + 1 :]:
            best = max(
                (a & b).sum() / (a | b).sum() for a in masks[first][:1] for b in masks[second]
            )
            assert best < 0.9, (first, second)
