"""Tables, CSV and picture of made-up results."""

from __future__ import annotations

import csv

import matplotlib.image
import pytest

from benchmarks.backbones import report as backbone_report
from benchmarks.backbones.contestants import OURS
from benchmarks.backbones.plot import draw_times
from benchmarks.backbones.report import cell_text, describe, legend, write_csv
from benchmarks.backbones.results import Cell, Result
from benchmarks.backbones.setting import Setting
from hiera_mm.engine import launch

MIB = 2**20


def result(name, role, seconds=(), **changed):
    timed = dict(flop=int(2e9), error=1.2e-6, memory=100 * MIB) if seconds else {}
    return Result(name, role, seconds=seconds, **{**timed, **changed})


def make_cell(size=(64, 96), scale=1.0):
    return Cell(
        arch='tiny',
        size=size,
        date='2026-11-21',
        ceiling=100e9,
        results=(
            result(OURS, 'ours', (0.04 * scale, 0.05 * scale, 0.06 * scale), memory=90 * MIB),
            result('hiera.Hiera', 'peer', (0.1 * scale,), difference=1.1e-14),
            result('timm.hiera', 'peer', (0.0625 * scale,), difference=2e-14, memory=120 * MIB),
            result(
                'transformers.HieraBackbone', 'peer', difference=3.2, refusal='its features differ'
            ),
            result('mmdet.ResNet', 'other', (0.01 * scale,), memory=10 * MIB),
        ),
    )


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith('|')]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    head, _, *rows = cells
    return {row[0].strip('`'): dict(zip(head, row, strict=True)) for row in rows}


def test_a_cell_as_text():
    text = cell_text(make_cell())
    assert text.startswith('### tiny, 64x96\n')
    rows = rows_of(text)
    assert list(rows) == [OURS, 'hiera.Hiera', 'timm.hiera', 'mmdet.ResNet']
    assert rows[OURS] == {
        'contestant': f'`{OURS}`', 'difference': '', 'ms': '50', 'spread': '20%',
        'time ratio': '1.00', 'GFLOP': '2', 'GFLOP/s': '40', 'ceiling': '40%', 'MiB': '90',
        'memory ratio': '1.00', 'error': '1e-06',
    }  # fmt: skip
    assert rows['timm.hiera']['time ratio'] == '0.80'
    assert rows['timm.hiera']['memory ratio'] == '0.75'
    assert rows['timm.hiera']['difference'] == '2e-14'
    assert '- not timed: `transformers.HieraBackbone`: its features differ\n' in text
    assert '- fastest matrix product: 100 GFLOP/s\n' in text
    # Other networks are no peers, however fast.
    assert text.endswith(
        '- time: 0.80 of the fastest peer (timm.hiera), 0.50 of the release; '
        'memory: 0.90 of the leanest peer (hiera.Hiera)'
    )


def test_columns_of_what_was_not_measured_are_left_out():
    cell = Cell('tiny', (64, 64), '2026-11-21', 1e9, (
        result(OURS, 'ours', (1.0,), memory=None, compile_seconds=12.34),
        result('hiera.Hiera', 'peer', (2.0,), memory=None, compile_seconds=5.0),
    ))  # fmt: skip
    rows = rows_of(cell_text(cell))
    assert not {'MiB', 'memory ratio', 'difference'} & set(rows[OURS])
    assert rows[OURS]['compiled in s'] == '12.3'
    assert cell.summary() == 'time: 0.50 of the fastest peer (hiera.Hiera)'


def test_a_cell_where_nobody_else_or_nobody_at_all_was_timed():
    alone = Cell('tiny', (64, 64), '2026-11-21', 1e9, (result(OURS, 'ours', (1.0,)),))
    assert alone.summary() == 'no peer to compare with'
    nobody = Cell('tiny', (64, 64), '2026-11-21', 1e9, (
        result(OURS, 'ours', refusal='fails: OutOfMemoryError'),
        result('timm.hiera', 'peer', refusal='fails: OutOfMemoryError'),
    ))  # fmt: skip
    assert 'Nothing could be timed.' in cell_text(nobody)
    assert f'- not timed: `{OURS}`: fails: OutOfMemoryError' in cell_text(nobody)


def test_csv(tmp_path):
    write_csv([make_cell(), make_cell((128, 128))], tmp_path / 'r.csv')
    with (tmp_path / 'r.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    ours, _, timm, refused, _ = rows[:5]
    assert (ours['arch'], ours['height'], ours['width']) == ('tiny', '64', '96')
    assert float(ours['seconds']) == 0.05
    assert ours['all_seconds'] == '0.04 0.05 0.06'
    assert float(ours['flop_per_second']) == 4e10
    assert float(timm['time_ratio']) == pytest.approx(0.8)
    assert int(timm['memory_bytes']) == 120 * MIB
    assert (refused['seconds'], refused['refusal']) == ('', 'its features differ')
    assert float(refused['difference']) == 3.2
    assert rows[5]['height'] == '128'


def test_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(launch, 'processor', lambda _: 'A Processor')
    known = dict(versions={'torch': '2.0', 'timm': '1.0'})
    monkeypatch.setattr(backbone_report, 'facts', lambda _: known)
    setting = Setting(peers=(), threads=1, rounds=3, warmups=0, batch=2)
    assert describe(setting, [make_cell()]) == (
        'inference, batch 2, float32, 3 rounds after 0 warm-ups; 1 thread of A Processor; '
        '2026-11-21\ntorch 2.0, timm 1.0'
    )
    setting = Setting(
        peers=(), threads=2, train=True, compiled=True, channels_last=True, dtype='bfloat16'
    )
    later = Cell('tiny', (64, 64), '2026-11-22', 1e9, ())
    assert describe(setting, [make_cell(), later]).splitlines()[0] == (
        'training step (forward, loss, backward, no optimiser), batch 1, bfloat16 (autocast), '
        'torch.compile, channels last, 10 rounds after 1 warm-up; 2 threads of A Processor; '
        '2026-11-21 to 2026-11-22'
    )


def test_the_machine_is_named():
    known = backbone_report.facts(Setting(peers=('mmdet.ResNet',)))
    assert known['processor']
    torch_name, mmdet_name = known['versions']
    assert torch_name == 'torch'
    assert 'mmdet' in mmdet_name


def test_the_legend_fits_the_columns():
    plain = legend(Setting(peers=(), memory=False))
    assert '- time ratio: ' in plain
    assert 'MiB' not in plain
    assert 'compiled' not in plain
    full = legend(Setting(peers=(), train=True, compiled=True))
    assert '- time ratio, memory ratio: ' in full
    assert 'a training step counts as three forward passes' in full
    assert '- compiled in s: ' in full


def test_the_picture(tmp_path):
    cells = [make_cell((side, side), scale=side / 64) for side in (64, 256, 128)]
    draw_times(cells, 'title', tmp_path / 'one.png')
    other = [Cell('base', c.size, c.date, c.ceiling, c.results) for c in cells]
    draw_times(cells + other, 'title', tmp_path / 'two.png')
    one, two = (matplotlib.image.imread(tmp_path / f'{name}.png') for name in ('one', 'two'))
    assert one.shape[1] < two.shape[1]
    assert one.std() > 0.05
