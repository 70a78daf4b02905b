"""How `make setup` treats an environment it finds; nothing is installed here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')


def make(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(['make', *args], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def venv(tmp_path):
    venv = tmp_path / 'venv'
    venv.mkdir()
    (venv / 'something').touch()
    return venv


def test_complete_environment_is_left_alone(venv):
    (venv / '.installed').touch()
    done = make('setup', f'VENV={venv}', 'PYTHON=false')
    assert done.returncode == 0, done.stderr
    assert (venv / 'something').exists()


def test_environment_of_another_maker_is_refused(venv):
    done = make('setup', f'VENV={venv}', 'PYTHON=false')
    assert done.returncode != 0
    assert 'was not made by' in done.stdout
    assert (venv / 'something').exists()


def test_interrupted_environment_is_made_anew(venv):
    (venv / '.installing').touch()
    done = make('setup', f'VENV={venv}', 'PYTHON=false')
    assert done.returncode != 0, 'the interpreter given here cannot succeed'
    assert not (venv / 'something').exists()
    assert (venv / '.installing').exists()
    assert not (venv / '.installed').exists()


def test_unknown_stack_is_named():
    done = make('setup', 'STACK=onedll')
    assert done.returncode != 0
    assert 'STACK=onedll is unknown; choose onedl or openmmlab' in done.stderr
