from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from demo import steps
from demo.steps import DemoError, run_command, sole_run


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def script(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / 'script.py'
        file.write_text(text)
        return file

    return write


def ended(pid: int, within: float = 20.0) -> bool:
    """Wait until a process is gone, or is dead and only waits to be reaped."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        stat = Path(f'/proc/{pid}/stat')
        if not stat.exists() or stat.read_text().rpartition(')')[2].split()[0] == 'Z':
            return True
        time.sleep(0.1)
    return False


def wait_for(file: Path) -> str:
    until = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until, f'{file} never came'
        time.sleep(0.05)
    return file.read_text()


def test_all_output_is_in_the_log(script, tmp_path, console):
    file = script('import sys; print(sys.argv[1]); print("warned", file=sys.stderr)')
    log = tmp_path / 'logs' / 'step.log'
    run_command([file, 'told'], log, str, console=console)
    assert set(log.read_text().split()) == {'told', 'warned'}


def test_progress_is_printed_now_and_then(script, tmp_path, console, monkeypatch):
    monkeypatch.setattr(steps, 'POLL_SECONDS', 0.05)
    monkeypatch.setattr(steps, 'LINE_SECONDS', 0.1)
    file = script('import time; time.sleep(1)')
    run_command([file], tmp_path / 'step.log', lambda: 'iteration 3 of 4', console=console)
    assert console.file.getvalue().count('iteration 3 of 4\n') >= 2


def test_failure_shows_the_end_of_the_log_and_what_to_try(script, tmp_path, console):
    file = script('for i in range(100): print("line", i)\nraise SystemExit(3)')
    log = tmp_path / 'step.log'
    with pytest.raises(DemoError) as caught:
        run_command([file], log, str, console=console)
    message = str(caught.value)
    assert 'script.py failed (exit status 3)' in message
    assert str(log) in message
    assert 'line 99' in message
    assert 'line 70' in message
    assert 'line 69\n' not in message
    assert '-m hiera_mm.doctor' in message


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_command_that_was_ended_is_no_failure(script, tmp_path, console, name):
    file = script(f'import os, signal; os.kill(os.getpid(), signal.{name})')
    with pytest.raises(KeyboardInterrupt):
        run_command([file], tmp_path / 'step.log', str, console=console)


def test_interrupted_command_is_ended(script, tmp_path, console, monkeypatch):
    monkeypatch.setattr(steps, 'POLL_SECONDS', 0.05)
    pid_file = tmp_path / 'pid'
    file = script(
        f'import os, pathlib, time\n'
        f'pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n'
        f'time.sleep(100)'
    )

    def progress() -> str:
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt
        return ''

    with pytest.raises(KeyboardInterrupt):
        run_command([file], tmp_path / 'step.log', progress, console=console)
    assert ended(int(pid_file.read_text()))


@pytest.mark.skipif(sys.platform != 'linux', reason='known to Linux only')
def test_command_does_not_outlive_a_killed_demo(script, tmp_path):
    pid_file = tmp_path / 'pid'
    file = script(
        f'import os, pathlib, time\n'
        f'pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n'
        f'time.sleep(100)'
    )
    code = (
        'from pathlib import Path; from rich.console import Console\n'
        'from demo.steps import run_command\n'
        f'run_command([{str(file)!r}], Path({str(tmp_path / "log")!r}), str, console=Console())'
    )
    demo = subprocess.Popen([sys.executable, '-c', code])
    pid = int(wait_for(pid_file))
    os.kill(demo.pid, signal.SIGKILL)
    demo.wait()
    assert ended(pid)


def test_second_run_in_a_folder_is_refused(tmp_path):
    with sole_run(tmp_path / 'demo'):
        with pytest.raises(DemoError, match='Another run'), sole_run(tmp_path / 'demo'):
            pass
        with sole_run(tmp_path / 'other'):
            pass
    with sole_run(tmp_path / 'demo'):
        pass
