from __future__ import annotations

import cv2
import numpy as np
import pytest

from demo.shapes import scenes as scenes_module
from demo.shapes.scenes import (
    MAX_OBJECTS,
    MIN_PIXELS,
    MIN_VISIBLE,
    OUTLINES,
    STUFF_CLASSES,
    THING_CLASSES,
    area,
    draw_scene,
    place,
    rasterise,
)

COUNT = 120


@pytest.fixture(scope='module')
def scenes():
    return [draw_scene(np.random.default_rng([17, i])) for i in range(COUNT)]


@pytest.fixture(scope='module')
def things(scenes):
    """Every object that is no crowd, with its scene."""
    return [(scene, thing) for scene in scenes for thing in scene.things if not thing.crowd]


def test_image_labels_and_objects_agree(scenes):
    stuff = len(STUFF_CLASSES)
    for scene in scenes:
        assert scene.image.shape == (*scene.labels.shape, 3)
        assert scene.image.dtype == scene.labels.dtype == np.uint8
        labels = np.zeros_like(scene.labels)
        for thing in scene.things:
            assert thing.mask.sum() >= MIN_PIXELS
            assert not labels[thing.mask].any()
            labels[thing.mask] = 1 + stuff + THING_CLASSES.index(thing.name)
        np.testing.assert_array_equal(scene.labels[labels > 0], labels[labels > 0])
        assert (scene.labels[labels == 0] <= stuff).all()


def test_image_sizes_and_numbers_of_objects_vary(scenes):
    heights, widths = np.array([scene.labels.shape for scene in scenes]).T
    assert min(heights.min(), widths.min()) >= 112 and max(heights.max(), widths.max()) <= 208
    assert (heights * widths).min() > 140**2 and (heights * widths).max() < 165**2
    assert (heights > 1.2 * widths).mean() > 0.2 and (widths > 1.2 * heights).mean() > 0.2
    counts = [sum(not thing.crowd for thing in scene.things) for scene in scenes]
    assert set(counts) == set(range(1, MAX_OBJECTS + 1))


def test_sizes_and_proportions_spread_and_the_border_cuts(things):
    boxes = [cv2.boundingRect(thing.mask.astype(np.uint8))[2:] for _, thing in things]
    longest = np.max(boxes, axis=1)
    assert 0.08 < (longest <= 16).mean() < 0.3
    assert (longest > 96).mean() > 0.04
    assert ((longest > 16) & (longest <= 96)).mean() > 0.6
    ratios = np.divide(*np.transpose(boxes))
    assert (ratios < 0.67).mean() > 0.1 and (ratios > 1.5).mean() > 0.1
    cut = [t.mask[[0, -1]].any() or t.mask[:, [0, -1]].any() for _, t in things]
    assert 0.1 < np.mean(cut) < 0.6


def test_what_is_mostly_hidden_is_left_out(monkeypatch):
    candidates = []
    monkeypatch.setattr(
        scenes_module, 'area', lambda loops: candidates.append(loops) or area(loops)
    )
    accepted = tried = 0
    for i in range(20):
        candidates.clear()
        scene = draw_scene(np.random.default_rng([18, i]))
        free = ~np.any([thing.mask & thing.crowd for thing in scene.things], axis=0)
        for loops in candidates:
            visible = rasterise(loops, *free.shape) & free
            is_there = any((thing.mask == visible).all() for thing in scene.things)
            assert is_there == (visible.sum() >= max(MIN_PIXELS, MIN_VISIBLE * area(loops)))
            free &= ~visible if is_there else True
            accepted, tried = accepted + is_there, tried + 1
    assert 0 < accepted < tried


def test_every_label_occurs_and_sky_lies_above_ground(scenes):
    share = np.mean([np.bincount(s.labels.ravel(), minlength=9) / s.labels.size for s in scenes], 0)
    assert (share > 0).all() and share[0] < 0.02
    assert (share[1:3] > 0.15).all()
    both = [s.labels for s in scenes if {1, 2} <= set(np.unique(s.labels))]
    assert len(both) > COUNT / 2
    for labels in both:
        assert np.nonzero(labels == 2)[0].mean() < np.nonzero(labels == 1)[0].mean()


def test_colour_hints_at_the_class_and_does_not_give_it(things):
    """The nearest hue of a class is right for most objects, and wrong for a real share of them."""
    right = []
    for scene, thing in things:
        hue = cv2.cvtColor(scene.image, cv2.COLOR_BGR2HSV_FULL)[thing.mask, 0] * (2 * np.pi / 256)
        angle = np.angle(np.exp(1j * hue).sum()) % (2 * np.pi)
        nearest = round(angle / (2 * np.pi) * len(THING_CLASSES)) % len(THING_CLASSES)
        right.append(nearest == THING_CLASSES.index(thing.name))
    assert 0.8 < np.mean(right) < 0.95


def test_crowds_are_some_tiny_objects_of_one_class(scenes):
    crowds = [thing for scene in scenes for thing in scene.things if thing.crowd]
    assert 0.02 * COUNT < len(crowds) < 0.12 * COUNT
    for crowd in crowds:
        parts = cv2.connectedComponents(crowd.mask.astype(np.uint8))[0] - 1
        assert parts >= 4


def test_a_scene_of_a_given_size_has_objects_to_match():
    counts = {}
    for side in (64, 160, 384):
        scenes = [draw_scene(np.random.default_rng(i), (side, side + 32)) for i in range(12)]
        assert all(scene.image.shape == (side, side + 32, 3) for scene in scenes)
        counts[side] = max(len(scene.things) for scene in scenes)
    assert counts[64] <= 3 and counts[160] <= 8 and counts[384] > 12
    with pytest.raises(ValueError, match='at least 64 pixels'):
        draw_scene(np.random.default_rng(0), (64, 63))


@pytest.mark.parametrize('name', THING_CLASSES)
def test_an_outline_fills_its_box_and_its_mask_has_its_area(name):
    rim = OUTLINES[name][0]
    np.testing.assert_allclose(rim.min(axis=0), -1)
    np.testing.assert_allclose(rim.max(axis=0), 1)
    for angle in (0.0, 0.7, 2.5):
        loops = place(name, (60.3, 50.8), (80, 55), angle)
        assert rasterise(loops, 110, 120).sum() == pytest.approx(area(loops), rel=0.02)


def test_outlines_are_turned_stretched_and_cut_off_and_rings_have_a_hole():
    flat = rasterise(place('box', (20, 20), (24, 8), 0.0), 40, 40)
    upright = rasterise(place('box', (20, 20), (24, 8), np.pi / 2), 40, 40)
    assert flat[16:24, 8:32].all() and flat.sum() == 24 * 8
    np.testing.assert_array_equal(upright, flat.T)
    cut = rasterise(place('box', (0, 20), (20, 20), 0.0), 40, 40)
    assert cut[10:30, :10].all() and cut.sum() == 200
    ring = rasterise(place('ring', (20, 20), (30, 30), 0.0), 40, 40)
    assert not ring[20, 20] and ring[20, 7]
    assert area(place('triangle', (0, 0), (10, 4), 1.0)) == pytest.approx(20)


def test_classes_differ_at_the_smallest_size():
    """Upright and turned by any angle, no two classes give nearly the same tiny mask."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    masks = {
        name: [rasterise(place(name, (10.5, 10.5), (11, 11), angle), 21, 21) for angle in angles]
        for name in THING_CLASSES
    }
    for i, first in enumerate(THING_CLASSES):
        upright = masks[first][0]
        for second in THING_CLASSES[i + 1 :]:
            best = max((upright & b).sum() / (upright | b).sum() for b in masks[second])
            assert best < 0.9, (first, second)
