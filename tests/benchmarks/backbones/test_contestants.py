"""Who takes part, and as what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.backbones.contestants import CONTESTANTS, OURS, Extractor, chosen, installed
from benchmarks.peers import PEERS


def test_who_takes_part():
    everyone = list(CONTESTANTS)
    assert [c.name for c in chosen('tiny', everyone)] == [
        OURS, 'hiera.Hiera', 'timm.hiera', 'transformers.HieraModel', 'transformers.HieraBackbone',
        'mmdet.SwinTransformer', 'mmdet.ResNet',
    ]  # fmt: skip
    assert [c.name for c in chosen('sam2_tiny', ['timm.hiera', 'timm.sam2_hiera'])] == [
        OURS, 'timm.sam2_hiera',
    ]  # fmt: skip
    assert [c.name for c in chosen('tiny', [])] == [OURS]
    assert {'mmdet.SwinTransformer', 'mmdet.ResNet'} <= {*installed()}
    assert OURS not in installed()


@pytest.mark.peers
def test_each_weight_of_a_peer_is_of_one_network():
    """A peer that is filled keeps nothing of its own random start but what is no backbone."""
    pytest.importorskip('timm')
    peer = PEERS['timm.hiera']
    model, ours = peer.build('tiny', (64, 64)), CONTESTANTS[OURS].build('tiny', (64, 64))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    peer.fill(model, ours)
    kept = [name for name, t in model.state_dict().items() if torch.equal(t, before[name])]
    assert kept
    assert all(name.startswith('head.') for name in kept)


@pytest.mark.parametrize(
    ('name', 'channels', 'parameters'),
    [
        ('mmdet.SwinTransformer', [96, 192, 384, 768], 27.5),
        ('mmdet.ResNet', [256, 512, 1024, 2048], 23.5),
    ],
)
def test_other_networks_for_orientation(name, channels, parameters):
    assert CONTESTANTS[name].role == 'other'
    network = Extractor(CONTESTANTS[name], 'tiny', (64, 64)).eval()
    with torch.no_grad():
        features = network(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape) for x in features] == [
        (1, dim, 16 >> stage, 16 >> stage) for stage, dim in enumerate(channels)
    ]
    number = sum(p.numel() for p in network.parameters()) / 1e6
    assert number == pytest.approx(parameters, abs=0.1)
    drop_paths = [m for m in network.modules() if type(m).__name__ == 'DropPath']
    assert all(m.drop_prob == 0 for m in drop_paths)


def test_our_map_of_positions_has_the_size_of_the_image():
    ours = CONTESTANTS[OURS].build('tiny', (96, 64))
    assert ours.position.grid == (24, 16)
    assert CONTESTANTS[OURS].build('tiny', (100, 64)).position.grid == (32, 16)
    assert CONTESTANTS[OURS].build('sam2_tiny', (96, 64)).position.grid == (7, 7)
    assert not ours.out_norms
