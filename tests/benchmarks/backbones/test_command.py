"""The tool as it is typed."""

from __future__ import annotations

import pytest

from benchmarks.backbones.contestants import OURS

TOOL = 'benchmark_backbone.py'


def test_it_measures_writes_and_goes_on(run_here, micro, add_peer, tmp_path):
    options = ('--arch', micro, '--peers', add_peer('same.Hiera'), '--rounds', 2, '--threads', 1,
               '--no-memory', '--work-dir', tmp_path)  # fmt: skip
    done = run_here(TOOL, *options, '--size', 64)
    assert done.returncode == 0
    assert f'| `{OURS}` ' in done.stdout
    assert '(1/1) micro at 64x64: round 2 of 2' in done.stderr
    assert not (tmp_path / 'backbones.png').exists()
    done = run_here(TOOL, *options, '--size', 64, '--size', 64, 96)
    assert done.returncode == 0
    assert '(2/2) micro at 64x96: round 2 of 2' in done.stderr
    assert 'micro at 64x64' not in done.stderr
    assert (tmp_path / 'backbones.md').read_text().strip() in done.stdout
    assert len((tmp_path / 'backbones.csv').read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / 'backbones.png').stat().st_size > 10_000
    done = run_here(TOOL, *options, '--size', 64, '--batch', 2)
    assert done.returncode == 2
    assert 'results of another setting (batch changed)' in done.stderr
    done = run_here(TOOL, *options, '--size', 64, '--batch', 2, '--fresh')
    assert done.returncode == 0
    assert '(1/1) micro at 64x64: round 2 of 2' in done.stderr


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--arch', 'tinny'), "invalid choice: 'tinny'"),
        (('--peers', 'nobody.Hiera'), "there is nothing called 'nobody.Hiera'"),
        (('--size', 16), 'at least 32 pixels'),
        (('--rounds', 0), 'rounds must be at least 1'),
        (('--device', 'xla:nothing'), 'no device'),
        (('--dtype', 'float64'), 'invalid choice'),
    ],
)
def test_what_cannot_be_measured_is_one_paragraph(run_here, tmp_path, options, message):
    done = run_here(TOOL, *options, '--work-dir', tmp_path / 'new')
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / 'new').exists()
