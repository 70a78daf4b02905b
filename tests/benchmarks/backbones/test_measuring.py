"""A whole cell: who is timed, and what is found out."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from benchmarks.backbones import measuring as backbones
from benchmarks.backbones.contestants import CONTESTANTS, OURS, Extractor, installed
from benchmarks.backbones.measuring import measure, measure_cell
from benchmarks.backbones.passes import TRAINING_FACTOR, compiler_cache, prepare
from benchmarks.backbones.peaks import measure_memory
from benchmarks.backbones.results import Cell
from benchmarks.backbones.setting import Setting
from benchmarks.kit import ceiling
from benchmarks.kit.ledger import Ledger
from hiera_mm.network import HieraTrunk

QUICK = dict(rounds=2, threads=1, memory=False)


def silent(_):
    pass


def by_name(cell):
    return {result.contestant: result for result in cell.results}


def slower(model, images):
    for _ in range(3):
        model(images)
    return model(images)


def doubled(model, images):
    return [2 * x for x in model(images)]


def fails_in_training(model, images):
    if model.training:
        raise RuntimeError('no training\nand more lines')
    return model(images)


def test_who_differs_is_not_timed(micro, add_peer):
    names = (
        add_peer('same.Hiera', features=slower),
        add_peer('other.Hiera', features=doubled),
    )
    said = []
    cell = measure_cell(micro, (64, 96), Setting(peers=names, **QUICK), said.append)
    ours, same, other = cell.results
    assert (ours.contestant, ours.role, ours.difference) == (OURS, 'ours', None)
    assert (same.role, same.difference, same.refusal) == ('peer', 0.0, '')
    assert len(ours.seconds) == len(same.seconds) == 2
    assert 0 < ours.error < 1e-5
    assert same.flop == 4 * ours.flop
    assert 0 < cell.time_ratio(same) < 0.7
    assert ours.memory is ours.compile_seconds is None
    assert other.seconds == ()
    assert 'differ from ours' in other.refusal
    assert other.difference > 1e-3
    assert other.flop is other.error is other.memory is None
    assert cell.ceiling > 0
    assert [line for line in said if line.startswith('round')] == [
        'round 1 of 2', 'round 2 of 2',
    ]  # fmt: skip
    assert not [line for line in said if line == 'first pass of other.Hiera']
    assert Cell.from_record(asdict(cell)) == cell


def test_who_fails_in_this_mode_is_listed(micro, add_peer):
    name = add_peer('poor.Hiera', features=fails_in_training)
    cell = measure_cell(micro, (64, 64), Setting(peers=(name,), train=True, **QUICK), silent)
    ours, poor = cell.results
    assert poor.refusal == 'fails: RuntimeError: no training'
    assert poor.seconds == ()
    assert len(ours.seconds) == 2


def test_training_is_three_passes_and_a_batch_counts(micro):
    inference = measure_cell(micro, (64, 64), Setting(peers=(), **QUICK), silent).ours
    training = Setting(peers=(), train=True, batch=2, **QUICK)
    assert measure_cell(micro, (64, 64), training, silent).ours.flop == (
        2 * TRAINING_FACTOR * inference.flop
    )


def test_lower_precision_shows(micro):
    errors = [
        measure_cell(micro, (64, 64), Setting(peers=(), dtype=dtype, **QUICK), silent).ours.error
        for dtype in ('float32', 'bfloat16')
    ]
    assert errors[1] > 100 * errors[0] > 0


class Watching(HieraTrunk):
    """Notes in which mode it runs."""

    seen = None

    def forward(self, x):
        weight = self.patch_embed.proj.weight
        with torch.no_grad():
            product = (x.flatten(1)[:, :8] @ x.flatten(1)[:, :8].T).dtype
        self.seen = dict(
            training=self.training,
            gradients=torch.is_grad_enabled(),
            product=product,
            last=[t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight)],
        )
        return super().forward(x)


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [
        ({}, dict(training=False, gradients=False, product=torch.float32, last=[False, False])),
        (
            dict(train=True, dtype='bfloat16', channels_last=True),
            dict(training=True, gradients=True, product=torch.bfloat16, last=[True, True]),
        ),
    ],
)
def test_modes(micro, mode, expected):
    network = Watching(micro, out_norm_eps=None)
    run = prepare(network, torch.randn(2, 3, 64, 64), Setting(peers=(), threads=1, **mode))
    features = run()
    assert network.seen == expected
    assert [tuple(x.shape) for x in features] == [
        (2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2),
    ]  # fmt: skip
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_training_step_reaches_every_weight(micro):
    network = HieraTrunk(micro, out_norm_eps=None)
    reached = set()
    for name, parameter in network.named_parameters():
        parameter.register_hook(lambda gradient, name=name: reached.add(name))
    prepare(network, torch.randn(1, 3, 64, 64), Setting(peers=(), threads=1, train=True))()
    assert reached == {name for name, _ in network.named_parameters()}


def test_everyone_is_compiled_where_that_is_asked_for(micro, add_peer, monkeypatch, tmp_path):
    compiled, folders = [], []

    def stand_in(network):
        compiled.append(type(network))
        return network

    monkeypatch.setattr(torch, 'compile', stand_in)
    monkeypatch.setattr(torch.compiler, 'reset', lambda: None)
    monkeypatch.setattr(
        backbones, 'compiler_cache', lambda folder: folders.append(folder) or compiler_cache(folder)
    )
    setting = Setting(peers=(add_peer('same.Hiera'),), compiled=True, **QUICK)
    cell = measure_cell(micro, (64, 64), setting, silent)
    assert compiled == [torch.nn.GELU, Extractor, Extractor]
    assert len({*folders}) == 2
    assert all(result.compile_seconds > 0 for result in cell.results)


@pytest.mark.slow
def test_compiling(micro, add_peer):
    setting = Setting(peers=(add_peer('same.Hiera'),), compiled=True, **QUICK)
    ours, same = measure_cell(micro, (64, 64), setting, silent).results
    assert ours.compile_seconds > 10 * ours.median
    assert 0 < ours.error < 1e-5
    # The same code of Python as ours, so that nothing is left to compile.
    assert 0 < same.compile_seconds < ours.compile_seconds


def test_what_was_measured_is_not_measured_again(micro, tmp_path, monkeypatch):
    setting = Setting(peers=(), **QUICK)
    file = tmp_path / 'results.jsonl'
    said = []
    first = measure([micro], [(64, 64), (64, 64)], setting, Ledger(file, {}), said.append)
    assert [cell.size for cell in first] == [(64, 64)]
    assert said[0].startswith('(1/1) micro at 64x64: ')
    measured = []
    real = backbones.measure_cell
    monkeypatch.setattr(
        backbones, 'measure_cell', lambda *args: measured.append(args[:2]) or real(*args)
    )
    again = measure([micro], [(64, 64), (32, 96)], setting, Ledger(file, {}), silent)
    assert measured == [(micro, (32, 96))]
    assert again[0] == first[0]
    assert again[1].size == (32, 96)


def test_memory_is_measured_in_a_new_process():
    setting = Setting(peers=(), threads=1)
    small = measure_memory(OURS, 'tiny', (64, 64), setting)
    # At least what one layer makes: the MLP's hidden layer of the first stage.
    assert small > 4 * 16 * 16 * 4 * 96
    assert small < 2**26  # and not the weights, which are 108 MB


@pytest.mark.parametrize('error', [RuntimeError('killed'), MemoryError()])
def test_memory_that_is_not_known_does_not_lose_the_times(micro, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(backbones, 'measure_memory', fail)
    said = []
    setting = Setting(peers=(), threads=1, rounds=1)
    cell = measure_cell(micro, (64, 64), setting, said.append)
    assert cell.ours.memory is None
    assert len(cell.ours.seconds) == 1
    assert f'the memory of {OURS} is not known: {type(error).__name__}' in said[-1]


@pytest.mark.gpu
@pytest.mark.parametrize('mode', [{}, dict(train=True, dtype='bfloat16', channels_last=True)])
def test_on_a_gpu(micro, add_peer, monkeypatch, mode):
    monkeypatch.setitem(ceiling.SIDES, 'cuda', (128, 256))
    setting = Setting(peers=(add_peer('same.Hiera'),), rounds=2, device='cuda', **mode)
    for result in measure_cell(micro, (64, 96), setting, silent).results:
        assert len(result.seconds) == 2
        assert 0 < result.error < (0.1 if mode else 1e-3)
        assert 0 < result.memory < 2**28


@pytest.mark.peers
def test_installed_peers_are_timed(monkeypatch):
    monkeypatch.setitem(ceiling.SIDES, 'cpu', (16, 32))
    names = tuple(name for name in installed() if CONTESTANTS[name].takes_part('tiny'))
    if 'timm.hiera' not in names:
        pytest.skip('timm is not installed')
    setting = Setting(peers=names, rounds=1, warmups=0, threads=1, memory=False)
    results = by_name(measure_cell('tiny', (96, 96), setting, silent))
    assert set(results) == {OURS, *names}
    for name, result in results.items():
        if name == 'transformers.HieraBackbone':
            assert result.seconds == ()
            continue
        assert len(result.seconds) == 1, (name, result.refusal)
        assert result.error < 1e-5
        assert result.speed > 0
