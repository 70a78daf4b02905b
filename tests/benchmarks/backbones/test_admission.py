"""Only those may be timed that give the same answer, from the same weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.backbones.admission import Admission, Refused, relative_error
from benchmarks.backbones.contestants import (
    CONTESTANTS,
    OURS,
    Extractor,
    build_ours,
    chosen,
    installed,
)
from benchmarks.peers import PEERS
from benchmarks.peers.compare import LIMIT
from hiera_mm.cost.counting import counting
from hiera_mm.cost.hollow import WithoutProducts
from hiera_mm.network import HieraTrunk

CLASSES = 1000
BACKBONE = 'transformers.HieraBackbone'


def test_the_same_network_is_admitted_with_our_weights(micro, add_peer):
    admission = Admission(micro, (64, 96))
    entrant = admission.admit(CONTESTANTS[add_peer('same.Hiera')])
    assert entrant.difference == 0
    assert entrant.flop == admission.ours.flop
    theirs = entrant.network.state_dict()
    for name, tensor in admission.ours.network.state_dict().items():
        assert torch.equal(theirs[name], tensor), name
        assert tensor.dtype == torch.float32
    with torch.no_grad():
        features = entrant.network(admission.image)
    assert 1e-9 < relative_error(features, entrant.expected) < 1e-5


def changed(model, images):
    """Ours with one number of one weight another."""
    bias = model.blocks[1].attn.qkv.bias
    before = bias[0].item()
    bias.data[0] = before + 1e-6
    features = model(images)
    bias.data[0] = before
    return features


def not_a_number(model, images):
    features = [x.clone() for x in model(images)]
    features[1][0, 0, 0, 0] = math.nan
    return features


@pytest.mark.parametrize(
    ('features', 'reason'),
    [
        (changed, r'differ from ours by \d\.\de-0\d in float64 \(limit 1e-09\)'),
        (not_a_number, 'differ from ours by nan'),
        (lambda model, images: model(images)[:3], 'other shapes than ours'),
        (lambda model, images: [x[..., 1:] for x in model(images)], 'other shapes than ours'),
        (lambda model, images: model.nothing, "cannot be built or run: AttributeError: 'Hiera'"),
    ],
)
def test_who_answers_otherwise_is_refused(micro, add_peer, features, reason):
    name = add_peer('other.Hiera', features=features)
    with pytest.raises(Refused, match=reason) as refused:
        Admission(micro, (64, 64)).admit(CONTESTANTS[name])
    if features in (changed, not_a_number):
        assert not refused.value.difference <= LIMIT
    else:
        assert refused.value.difference is None


def test_norms_after_the_features_are_given_the_same_weights(micro, add_peer):
    def build(arch, size):
        return build_ours(arch, size, dict(type='LN', eps=1e-3))

    admission = Admission(micro, (64, 64))
    name = add_peer('normed.Hiera', build=build, out_norm_eps=1e-3)
    assert admission.admit(CONTESTANTS[name]).difference == 0
    name = add_peer('normed.Hiera', build=build, out_norm_eps=1e-2)
    with pytest.raises(Refused, match='differ from ours'):
        admission.admit(CONTESTANTS[name])


def without_last_block(arch, size):
    model = CONTESTANTS[OURS].build(arch, size)
    del model.blocks[3]
    return model


def test_who_has_no_place_for_a_weight_is_refused(micro, add_peer):
    name = add_peer('small.Hiera', build=without_last_block)
    with pytest.raises(Refused, match=r'small\.Hiera has no place for blocks\.3\.'):
        Admission(micro, (64, 64)).admit(CONTESTANTS[name])


def test_sizes_that_only_ours_takes(micro, add_peer):
    admission = Admission(micro, (50, 64))
    assert [tuple(x.shape[2:]) for x in admission.ours.expected][:2] == [(13, 16), (7, 8)]
    with pytest.raises(Refused, match='takes only sides that are multiples of 32'):
        admission.admit(CONTESTANTS[add_peer('same.Hiera')])
    assert admission.admit(CONTESTANTS['mmdet.ResNet']).difference is None


def test_our_operations_are_those_of_the_cost_tool(micro):
    image = torch.rand(1, 3, 64, 96)
    network = HieraTrunk(micro, out_norm_eps=None)
    with torch.no_grad(), WithoutProducts(), counting(network) as counts:
        network(image)
    assert Admission(micro, (64, 96)).ours.flop == 2 * counts.total.total()


@pytest.mark.peers
@pytest.mark.parametrize(
    ('arch', 'size'),
    [
        ('tiny', (96, 128)),
        ('sam2_tiny', (64, 96)),
        ('small_abswin', (96, 64)),
        ('hieradet_small', (96, 96)),
    ],
)
def test_installed_peers_agree_at_sizes_they_were_not_made_for(arch, size):
    admission = Admission(arch, size)
    peers = [c for c in chosen(arch, installed()) if c.role == 'peer']
    if not peers:
        pytest.skip('no peer is installed')
    for peer in peers:
        if peer.name == BACKBONE:
            continue
        entrant = admission.admit(peer)
        assert entrant.difference <= LIMIT, peer.name
        if peer.name == 'hiera.Hiera':  # always runs its classifier, too
            assert entrant.flop == admission.ours.flop + 2 * 768 * CLASSES
        elif arch in ('tiny', 'small_abswin'):
            assert entrant.flop == admission.ours.flop, peer.name
        else:
            # Of windows that do not divide the map, they project what was filled up as well.
            assert entrant.flop > admission.ours.flop, peer.name


@pytest.mark.peers
def test_the_backbone_of_transformers_is_refused():
    """It hands its tokens on in image order, where mask units are expected (5.23)."""
    pytest.importorskip('transformers')
    admission = Admission('tiny', (64, 64))
    with pytest.raises(Refused, match='differ from ours') as refused:
        admission.admit(CONTESTANTS[BACKBONE])
    assert refused.value.difference > 1e-3
    # In the order that is expected, the same weights would give the same answer.
    mended = replace(CONTESTANTS[BACKBONE], features=PEERS[BACKBONE].features)
    assert admission.admit(mended).difference <= LIMIT


@pytest.mark.peers
def test_windows_that_divide_the_map_cost_all_the_same():
    pytest.importorskip('timm')
    flop = {}
    for name in (OURS, 'timm.sam2_hiera'):
        network = Extractor(CONTESTANTS[name], 'sam2_tiny', (224, 224)).eval()
        with torch.no_grad(), WithoutProducts(), counting(network) as counts:
            network(torch.rand(1, 3, 224, 224))
        flop[name] = counts.total.total()
    assert flop[OURS] == flop['timm.sam2_hiera']


def test_the_relative_error_is_that_of_the_worst_stage():
    expected = [torch.ones(1, 2, 2, 2).double(), torch.full((1, 4, 1, 1), 2.0).double()]
    found = [torch.ones(3, 2, 2, 2), torch.full((3, 4, 1, 1), 2.5)]
    assert relative_error(found, expected) == pytest.approx(0.25)
    found[0][0, 0, 0, 0] = math.nan
    assert math.isnan(relative_error(found, expected))
