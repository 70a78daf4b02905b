"""Backbones beside each other: who may be timed, what is measured, and what is written of it."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.contest import contestants, measuring, report
from benchmarks.contest.contestants import (
    CONTESTANTS,
    OURS,
    Admission,
    Extractor,
    Refused,
    build_ours,
    chosen,
    flop_of,
    relative_error,
)
from benchmarks.contest.measuring import TRAINING_FACTOR, check, measure_cell, prepare
from benchmarks.kit import timing
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.compare import LIMIT
from hiera_mm.errors import UserError
from hiera_mm.network import VARIANTS, HieraTrunk, Variant

BACKBONE = 'transformers.HieraBackbone'
MIB = 2**20


@pytest.fixture
def micro(monkeypatch):
    """The name of an architecture that runs in milliseconds, on a machine of small matrices."""
    monkeypatch.setitem(VARIANTS, 'micro', Variant(16, 1, (1, 1, 1, 1)))
    ours = replace(CONTESTANTS[OURS], archs=(*CONTESTANTS[OURS].archs, 'micro'))
    monkeypatch.setitem(CONTESTANTS, OURS, ours)
    monkeypatch.setitem(timing.SIDES, 'cpu', (16, 32))
    monkeypatch.setitem(timing.SIDES, 'cuda', (128, 256))
    return 'micro'


@pytest.fixture
def add_peer(micro, monkeypatch):
    """Let another project's class take part: ours under another name, but for what is given."""

    def add(name: str, **changed: object) -> Peer:
        peer = replace(CONTESTANTS[OURS], **{'name': name, 'package': 'torch', **changed})
        monkeypatch.setitem(CONTESTANTS, name, peer)
        return peer

    return add


def setting(*peers: Peer, **changed: object) -> Namespace:
    return Namespace(
        **{
            **dict(batch=1, device='cpu', dtype='float32', threads=1, rounds=2, warmups=1),
            **dict(train=False, compile=False, channels_last=False, no_memory=True),
            **changed,
        },
        peers=[peer.name for peer in peers],
    )


def silent(_):
    pass


def test_who_takes_part():
    assert list(chosen('tiny', CONTESTANTS)) == [
        OURS, 'hiera.Hiera', 'timm.hiera', 'transformers.HieraModel', BACKBONE,
        'mmdet.SwinTransformer', 'mmdet.ResNet',
    ]  # fmt: skip
    assert list(chosen('sam2_tiny', ['timm.hiera', 'timm.sam2_hiera'])) == [OURS, 'timm.sam2_hiera']
    everyone = setting()
    everyone.peers = None
    check(everyone)
    assert {'mmdet.SwinTransformer', 'mmdet.ResNet'} <= {*everyone.peers}
    assert OURS not in everyone.peers


def test_what_cannot_be_measured_is_said_before_any_work(monkeypatch):
    for changed, message in (
        (dict(device='gpu'), "no device 'gpu'; use cpu or cuda"),
        (dict(device='meta'), 'not on meta'),
    ):
        with pytest.raises(UserError, match=message):
            check(setting(**changed))
    for name in ('timm.hierra', OURS):
        with pytest.raises(UserError, match='nothing called'):
            check(setting(Namespace(name=name)))
    with monkeypatch.context() as patch:
        # In float32: autocast has switched itself off.
        patch.setattr(measuring.torch, 'rand', lambda *_, **__: torch.zeros(8, 8).double())
        with pytest.raises(UserError, match='cannot run networks in float16 on cpu; use another'):
            check(setting(dtype='float16'))
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    with pytest.raises(UserError, match='needs the package timm, which is not installed'):
        check(setting(PEERS['timm.hiera']))


def test_the_same_network_is_admitted_with_our_weights(micro, add_peer):
    admission = Admission(micro, (64, 96))
    entrant = admission.admit(add_peer('same.Hiera'))
    assert entrant.difference == 0
    assert entrant.flop == admission.ours.flop > 0
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


def without_last_block(arch, size):
    model = build_ours(arch, size)
    del model.blocks[3]
    return model


@pytest.mark.parametrize(
    ('other', 'reason'),
    [
        (dict(features=changed), r'differ from ours by \d\.\de-0\d in float64 \(limit 1e-09\)'),
        (dict(features=not_a_number), 'differ from ours by nan'),
        (dict(features=lambda model, images: model(images)[:3]), 'other shapes than ours'),
        (
            dict(features=lambda model, images: [x[..., 1:] for x in model(images)]),
            'other shapes than ours',
        ),
        (
            dict(features=lambda model, images: model.nothing),
            "cannot be built or run: AttributeError: 'Hiera'",
        ),
        (dict(build=without_last_block), r'has no place for blocks\.3\.'),
    ],
)
def test_who_answers_otherwise_is_refused(micro, add_peer, other, reason):
    with pytest.raises(Refused, match=reason) as refused:
        Admission(micro, (64, 64)).admit(add_peer('other.Hiera', **other))
    if 'differ' in reason:
        assert not refused.value.difference <= LIMIT
    else:
        assert refused.value.difference is None


def test_norms_after_the_features_are_given_the_same_weights(micro, add_peer):
    def build(arch, size):
        return build_ours(arch, size, dict(type='LN', eps=1e-3))

    admission = Admission(micro, (64, 64))
    normed = add_peer('normed.Hiera', build=build, out_norm_eps=1e-3)
    assert admission.admit(normed).difference == 0
    with pytest.raises(Refused, match='differ from ours'):
        admission.admit(replace(normed, out_norm_eps=1e-2))


def test_sizes_that_only_ours_takes(micro, add_peer):
    admission = Admission(micro, (50, 64))
    assert [tuple(x.shape[2:]) for x in admission.ours.expected][:2] == [(13, 16), (7, 8)]
    with pytest.raises(Refused, match='takes only sides that are multiples of 32'):
        admission.admit(add_peer('same.Hiera'))
    resnet = admission.admit(CONTESTANTS['mmdet.ResNet'])
    assert resnet.difference is None
    assert [x.shape[1] for x in resnet.expected] == [256, 512, 1024, 2048]


def test_our_map_of_positions_has_the_size_of_the_image():
    with torch.device('meta'):
        ours = build_ours('tiny', (96, 64))
        assert ours.position.grid == (24, 16)
        assert build_ours('tiny', (100, 64)).position.grid == (32, 16)
        assert build_ours('sam2_tiny', (96, 64)).position.grid == (7, 7)
    assert not ours.out_norms


@pytest.mark.peers
@pytest.mark.parametrize(
    ('arch', 'size'),
    [
        ('tiny', (96, 128)),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (
                ('sam2_tiny', (64, 96)), ('small_abswin', (96, 64)), ('hieradet_small', (96, 96)),
            )
        ),
    ],
)  # fmt: skip
def test_installed_peers_agree_at_sizes_they_were_not_made_for(arch, size):
    admission = Admission(arch, size)
    peers = [p for p in chosen(arch, contestants.COMPARED).values() if p.installed]
    if len(peers) < 2:
        pytest.skip('no peer is installed')
    for peer in peers[1:]:
        if peer.name == BACKBONE:
            # It hands its tokens on in image order, where mask units are expected (5.23).
            with pytest.raises(Refused, match='differ from ours') as refused:
                admission.admit(peer)
            assert refused.value.difference > 1e-3
            # In the order that is expected, the same weights would give the same answer.
            assert admission.admit(replace(peer, outputs=None)).difference <= LIMIT
            continue
        entrant = admission.admit(peer)
        assert entrant.difference <= LIMIT, peer.name
        if peer.name == 'hiera.Hiera':  # always runs its classifier, too
            assert entrant.flop == admission.ours.flop + 2 * 768 * 1000
        elif arch in ('tiny', 'small_abswin'):
            assert entrant.flop == admission.ours.flop, peer.name
        else:
            # Of windows that do not divide the map, they project what was filled up as well.
            assert entrant.flop > admission.ours.flop, peer.name


@pytest.mark.peers
@pytest.mark.slow
def test_windows_that_divide_the_map_cost_all_the_same():
    pytest.importorskip('timm')
    ours, theirs = (
        flop_of(Extractor(CONTESTANTS[name], 'sam2_tiny', (224, 224)), torch.rand(1, 3, 224, 224))
        for name in (OURS, 'timm.sam2_hiera')
    )
    assert ours == theirs


@pytest.mark.peers
def test_a_peer_keeps_nothing_of_its_own_start_but_what_is_no_backbone():
    pytest.importorskip('timm')
    peer = PEERS['timm.hiera']
    model, ours = peer.build('tiny', (64, 64)), build_ours('tiny', (64, 64))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    peer.fill(model, ours)
    kept = [name for name, t in model.state_dict().items() if torch.equal(t, before[name])]
    assert kept
    assert all(name.startswith('head.') for name in kept)


def test_the_relative_error_is_that_of_the_worst_stage():
    expected = [torch.ones(1, 2, 2, 2).double(), torch.full((1, 4, 1, 1), 2.0).double()]
    found = [torch.ones(3, 2, 2, 2), torch.full((3, 4, 1, 1), 2.5)]
    assert relative_error(found, expected) == pytest.approx(0.25)
    found[0][0, 0, 0, 0] = math.nan
    assert math.isnan(relative_error(found, expected))


def test_who_differs_is_not_timed(micro, add_peer):
    def four_times(model, images):
        for _ in range(3):
            model(images)
        return model(images)

    same = add_peer('same.Hiera', features=four_times)
    other = add_peer('other.Hiera', features=lambda model, images: [2 * x for x in model(images)])
    said = []
    rows = measure_cell(micro, (64, 96), setting(same, other), said.append)
    ours, same, other = rows
    assert (ours['contestant'], ours['role'], ours.get('difference')) == (OURS, 'ours', None)
    assert (same['role'], same['difference'], same.get('refusal')) == ('peer', 0.0, None)
    assert len(ours['all_seconds'].split()) == len(same['all_seconds'].split()) == 2
    assert 0 < ours['error'] < 1e-5
    assert same['flop'] == 4 * ours['flop']
    assert same['time_ratio'] == ours['seconds'] / same['seconds']
    assert 'differ from ours' in other['refusal']
    assert other['difference'] > 1e-3
    assert not {'seconds', 'flop', 'error', 'memory_bytes', 'time_ratio'} & set(other)
    assert all(row['ceiling_flop_per_second'] > 0 for row in rows)
    assert sum('round 2 of 2: ' in line for line in said) == 2
    assert 'first pass of other.Hiera' not in said


def test_who_fails_in_this_mode_is_listed_and_training_is_three_passes(micro, add_peer):
    def fails_in_training(model, images):
        if model.training:
            raise RuntimeError('no training\nand more lines')
        return model(images)

    poor = add_peer('poor.Hiera', features=fails_in_training)
    ours, poor = measure_cell(micro, (64, 64), setting(poor, train=True, batch=2), silent)
    assert poor['refusal'] == 'fails: RuntimeError: no training'
    assert 'seconds' not in poor
    assert ours['seconds'] > 0
    (inference,) = measure_cell(micro, (64, 64), setting(dtype='bfloat16'), silent)
    assert ours['flop'] == 2 * TRAINING_FACTOR * inference['flop']
    assert inference['error'] > 100 * ours['error'] > 0  # lower precision shows


@pytest.mark.parametrize(
    ('mode', 'dtype', 'layout'),
    [
        ({}, torch.float32, torch.contiguous_format),
        (
            dict(train=True, dtype='bfloat16', channels_last=True),
            torch.bfloat16,
            torch.channels_last,
        ),
    ],
)
def test_modes(micro, mode, dtype, layout):
    network = HieraTrunk(micro, out_norm_eps=None)
    seen, reached = [], set()

    def note(module, inputs, output):
        seen.append((module.training, torch.is_grad_enabled(), output.dtype))
        assert module.weight.is_contiguous(memory_format=layout)

    network.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=layout))
    )
    network.patch_embed.proj.register_forward_hook(note)
    for name, parameter in network.named_parameters():
        parameter.register_hook(lambda gradient, name=name: reached.add(name))
    features = prepare(network, torch.randn(2, 3, 64, 64), setting(**mode))()
    assert seen == [True, (bool(mode), bool(mode), dtype)]
    assert [tuple(x.shape[1:]) for x in features] == [
        (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2),
    ]  # fmt: skip
    # A training step reaches every weight, and leaves no gradient behind.
    assert reached == ({name for name, _ in network.named_parameters()} if mode else set())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_everyone_is_compiled_where_that_is_asked_for(micro, add_peer, monkeypatch):
    compiled, folders = [], []

    def stand_in(network):
        compiled.append(type(network))
        folders.append(measuring.os.environ.get('TORCHINDUCTOR_CACHE_DIR'))
        return network

    monkeypatch.setattr(torch, 'compile', stand_in)
    monkeypatch.setattr(torch.compiler, 'reset', lambda: None)
    rows = measure_cell(micro, (64, 64), setting(add_peer('same.Hiera'), compile=True), silent)
    assert compiled == [nn.GELU, Extractor, Extractor]
    assert len({*folders[1:]}) == 2  # each contestant has a new cache
    assert measuring.os.environ.get('TORCHINDUCTOR_CACHE_DIR') == folders[0]
    assert all(row['compile_seconds'] > 0 for row in rows)


@pytest.mark.slow
def test_compiling(micro, add_peer):
    same = add_peer('same.Hiera')
    rows = measure_cell(micro, (64, 64), setting(same, compile=True), silent)
    assert all(row['compile_seconds'] > 0 and 0 < row['error'] < 1e-5 for row in rows)


@pytest.mark.slow
def test_memory_is_measured_in_a_new_process():
    small = measuring.measure_memory(OURS, 'tiny', (64, 64), setting())
    # At least what one layer makes: the MLP's hidden layer of the first stage.
    assert small > 4 * 16 * 16 * 4 * 96
    assert small < 2**26  # and not the weights, which are 108 MB


def test_memory_that_is_not_known_does_not_lose_the_times(micro, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(measuring, 'measure_memory', fail)
    said = []
    (ours,) = measure_cell(micro, (64, 64), setting(no_memory=False), said.append)
    assert 'memory_bytes' not in ours
    assert ours['seconds'] > 0
    assert f'the memory of {OURS} is not known: MemoryError' in said[-1]


@pytest.mark.gpu
@pytest.mark.parametrize('mode', [{}, dict(train=True, dtype='bfloat16', channels_last=True)])
def test_on_a_gpu(micro, add_peer, mode):
    on_gpu = setting(add_peer('same.Hiera'), device='cuda', no_memory=False, **mode)
    for row in measure_cell(micro, (64, 96), on_gpu, silent):
        assert row['seconds'] > 0
        assert 0 < row['error'] < (0.1 if mode else 1e-3)
        assert 0 < row['memory_bytes'] < 2**28


def row_of(name, role, seconds=None, memory=None, side=64, **more):
    row = dict(date='2026-11-21', arch='tiny', height=side, width=96, contestant=name, role=role,
               ceiling_flop_per_second=100e9, **more)  # fmt: skip
    if seconds is not None:
        row |= dict(seconds=seconds, spread=0.2, flop=2e9, flop_per_second=2e9 / seconds,
                    error=1.2e-6, time_ratio=0.05 / seconds, all_seconds='')  # fmt: skip
    if memory is not None:
        row |= dict(memory_bytes=memory * MIB, memory_ratio=90 / memory)
    return row


def cell_of(side=64, **more):
    return [
        row_of(OURS, 'ours', 0.05, 90, side=side, **more),
        row_of('hiera.Hiera', 'peer', 0.1, 100, side=side, difference=1.1e-14),
        row_of('timm.hiera', 'peer', 0.0625, 120, side=side, difference=2e-14),
        row_of(BACKBONE, 'peer', side=side, difference=3.2, refusal='its features differ'),
        row_of('mmdet.ResNet', 'other', 0.01, 10, side=side),
    ]


def test_a_cell_as_text():
    text = report.cell_text(cell_of())
    assert text.startswith('### tiny, 64x96\n')
    lines = [line for line in text.splitlines() if line.startswith('|')]
    head, _, ours, release, timm, resnet = (
        [cell.strip() for cell in line.strip('|').split('|')] for line in lines
    )
    assert dict(zip(head, ours, strict=True)) == {
        'contestant': f'`{OURS}`', 'difference': '', 'ms': '50', 'spread': '20%',
        'time ratio': '1.00', 'GFLOP': '2', 'GFLOP/s': '40', 'ceiling': '40%', 'MiB': '90',
        'memory ratio': '1.00', 'error': '1e-06',
    }  # fmt: skip
    assert timm[:5] == ['`timm.hiera`', '2e-14', '62.5', '20%', '0.80']
    assert timm[-2] == '0.75'
    assert (release[0], resnet[0]) == ('`hiera.Hiera`', '`mmdet.ResNet`')
    assert f'- not timed: `{BACKBONE}`: its features differ\n' in text
    assert '- fastest matrix product: 100 GFLOP/s\n' in text
    # Other networks are no peers, however fast.
    assert text.endswith(
        '- time: 0.80 of the fastest peer (timm.hiera), 0.50 of the release; '
        'memory: 0.90 of the leanest peer (hiera.Hiera)'
    )
    assert report.summary(cell_of()[:1]) == 'no peer to compare with'
    nobody = report.cell_text([row_of(OURS, 'ours', refusal='fails: OutOfMemoryError')])
    assert 'Nothing could be timed.' in nobody
    assert f'- not timed: `{OURS}`: fails: OutOfMemoryError' in nobody


def test_what_was_measured_is_said():
    later = row_of(OURS, 'ours', 1.0) | dict(date='2026-11-22')
    mode = dict(train=True, compile=True, channels_last=True, dtype='bfloat16')
    first, second = report.describe(
        setting(CONTESTANTS['mmdet.ResNet'], **mode), [cell_of(), [later]]
    ).splitlines()
    assert first.startswith(
        'training step (forward, loss, backward, no optimiser), batch 1, bfloat16 (autocast), '
        'torch.compile, channels last, 2 rounds after 1 warm-ups; 1 thread of '
    )
    assert first.endswith('; 2026-11-21 to 2026-11-22')
    assert second.startswith('torch 2.')
    assert 'mmdet' in second


def test_the_script_measures_writes_and_goes_on(run_script, micro, add_peer, tmp_path):
    options = ('--arch', micro, '--peers', add_peer('same.Hiera').name, '--rounds', 2,
               '--threads', 1, '--no-memory', '--work-dir', tmp_path)  # fmt: skip
    done = run_script('backbones', *options, '--size', 64)
    assert done.returncode == 0, done.stderr
    assert f'| `{OURS}` ' in done.stdout
    assert '(1/1) micro at 64x64: round 2 of 2: ' in done.stderr
    assert not (tmp_path / 'backbones.png').exists()
    done = run_script('backbones', *options, '--size', 64, '--size', 64, 96)
    assert done.returncode == 0
    assert '(2/2) micro at 64x96: round 2 of 2: ' in done.stderr
    assert 'micro at 64x64' not in done.stderr
    assert (tmp_path / 'backbones.md').read_text().strip() in done.stdout
    assert len((tmp_path / 'backbones.csv').read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / 'backbones.png').stat().st_size > 10_000
    done = run_script('backbones', *options, '--size', 64, '--batch', 2)
    assert done.returncode == 2
    assert 'results of another setting (batch changed)' in done.stderr
    done = run_script('backbones', *options, '--size', 64, '--batch', 2, '--fresh')
    assert done.returncode == 0
    assert '(1/1) micro at 64x64: round 2 of 2: ' in done.stderr
    done = run_script('backbones', '--size', 16, '--work-dir', tmp_path / 'new')
    assert done.returncode == 2
    assert 'at least 32 pixels' in done.stderr
    assert not (tmp_path / 'new').exists()
