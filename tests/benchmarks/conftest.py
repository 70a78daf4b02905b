from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of benchmarks/ as if it was typed, but in this process."""

    def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f'benchmarks.{name}').main()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, *capsys.readouterr())

    return run
