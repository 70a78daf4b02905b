"""The tool as it is typed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from hiera_mm.bench.backbones.contestants import OURS

TOOL = Path(__file__).parents[3] / 'tools' / 'benchmark_backbone.py'


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool; return its exit code, stdout and stderr."""

    def run_tool(*args: object) -> tuple[int | None, str, str]:
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name='__main__')
        return ended.value.code, *capsys.readouterr()

    return run_tool


def test_it_measures_writes_and_goes_on(run, micro, add_peer, tmp_path):
    options = ('--arch', micro, '--peers', add_peer('same.Hiera'), '--rounds', 2, '--threads', 1,
               '--no-memory', '--work-dir', tmp_path)  # fmt: skip
    code, out, err = run(*options, '--size', 64)
    assert not code
    assert f'| `{OURS}` ' in out
    assert '(1/1) micro at 64x64: round 2 of 2' in err
    assert not (tmp_path / 'backbones.png').exists()
    code, out, err = run(*options, '--size', 64, '--size', 64, 96)
    assert not code
    assert '(2/2) micro at 64x96: round 2 of 2' in err
    assert 'micro at 64x64' not in err
    assert (tmp_path / 'backbones.md').read_text().strip() in out
    assert len((tmp_path / 'backbones.csv').read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / 'backbones.png').stat().st_size > 10_000
    code, _, err = run(*options, '--size', 64, '--batch', 2)
    assert code == 2
    assert 'results of another setting (batch changed)' in err
    code, _, err = run(*options, '--size', 64, '--batch', 2, '--fresh')
    assert not code
    assert '(1/1) micro at 64x64: round 2 of 2' in err


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
def test_what_cannot_be_measured_is_one_paragraph(run, tmp_path, options, message):
    code, _, err = run(*options, '--work-dir', tmp_path / 'new')
    assert code == 2
    assert message in err
    assert 'Traceback' not in err
    assert not (tmp_path / 'new').exists()
