"""The task of the resolution study: the box of the object at each point."""

import numpy as np
import pytest
import torch
import torchvision

from benchmarks.studies.boxes import BoxNetwork, box_iou, draw_boxes, flip, score, train
from demo.shapes.scenes import draw_scene
from hiera_mm.network import Variant
from hiera_mm.network.position import AbsoluteWin

ARCH = Variant(embed_dim=8, num_heads=1, depths=(1, 1, 1, 1))


@pytest.fixture(scope='module')
def data():
    return draw_boxes(12, 64, seed=0)


def make_network():
    torch.manual_seed(0)
    return BoxNetwork(ARCH, AbsoluteWin((4, 4)))


def test_targets_are_the_boxes_of_the_objects(data):
    points = 0
    for index, targets in enumerate(data.targets):
        scene = draw_scene(np.random.default_rng([0, 64, index]), (64, 64))
        assert np.array_equal(data.images[index].permute(1, 2, 0).numpy(), scene.image)
        for row, column in np.ndindex(16, 16):
            y, x = 4 * row + 2, 4 * column + 2
            here = [t for t in scene.things if t.mask[y, x] and not t.crowd]
            left, upper, right, lower = targets[row, column].tolist()
            if not here:
                assert left == upper == right == lower == 0
                continue
            points += 1
            box = here[0].mask[int(y - upper) : int(y + lower), int(x - left) : int(x + right)]
            assert box.sum() == here[0].mask.sum()  # it holds the whole object
            assert all(line.any() for line in (box[0], box[-1], box[:, 0], box[:, -1]))  # no more
    assert points > 100


def test_a_mirrored_scene_has_mirrored_boxes(data):
    images, targets = flip(data.images, data.targets)
    assert torch.equal(images[..., 0], data.images[..., -1])
    x = torch.arange(2, 64, 4.0)
    left = (x - data.targets[..., 0])[data.targets.sum(-1) > 0]
    right = (x + targets[..., 2]).flip(2)[data.targets.sum(-1) > 0]
    assert torch.equal(left, 64 - right)


def test_iou_is_torchvisions():
    predicted, true = torch.rand(2, 50, 4) * 20
    at = torch.rand(50, 2) * 100

    def corners(distances):
        return torch.cat([at - distances[:, :2], at + distances[:, 2:]], dim=1)

    expected = torchvision.ops.box_iou(corners(predicted), corners(true)).diagonal()
    torch.testing.assert_close(box_iou(predicted, true), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_training_learns_and_repeats(data):
    networks = [make_network() for _ in range(2)]
    arguments = dict(steps=80, rate=3e-3, batch=4, seed=1)
    losses = train(networks[0], data, **arguments)
    assert len(losses) == 80
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert train(networks[1], data, **arguments) == losses
    assert score(networks[0], data, 4) == pytest.approx(score(networks[1], data, 5), abs=1e-3)


def test_scenes_without_an_object_do_no_harm(data):
    network = make_network()
    empty = type(data)(data.images[:2], torch.zeros_like(data.targets[:2]))
    assert train(network, empty, steps=2, rate=1e-3, batch=2, seed=0) == [0.0, 0.0]
    assert all(p.isfinite().all() for p in network.parameters())


def test_a_score_of_100_is_perfect(data):
    class Perfect(torch.nn.Module):
        def forward(self, images):
            return data.targets[: len(images)] + 1e-9

    assert score(Perfect(), data, len(data)) == pytest.approx(100)
