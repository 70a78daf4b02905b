from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hiera_mm.ops

from .server import server  # noqa: F401  a fixture


def pytest_report_header():
    # A compiled mmcv out of pip's cache would otherwise be tested without anybody noticing.
    return f'mmcv operators: {hiera_mm.ops.source()}'


@pytest.fixture(autouse=True)
def seeded():
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def small_arch():
    """A Hiera that builds and runs in milliseconds, with more than one head and block."""
    return dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a tool as if it was typed, but in this process, which has the toolboxes loaded."""

    def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
        tool = Path(__file__).parents[1] / 'tools' / name
        monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
        monkeypatch.syspath_prepend(tool.parent)  # as Python does
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tool), run_name='__main__')
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, *capsys.readouterr())

    return run


class Payload:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), 'w')


@pytest.fixture
def trap(tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Make a checkpoint whose pickle makes a file; return its path and that of the file."""

    def make(
        state_dict: dict[str, torch.Tensor] | None = None, zipped: bool = True
    ) -> tuple[str, Path]:
        path, marker = tmp_path / 'trap.pth', tmp_path / 'the-pickle-was-run'
        content = {'state_dict': state_dict or {}, 'meta': Payload(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return str(path), marker

    return make


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(skip)
