from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import tasks
from demo.tasks import DETECTOR, SEGMENTER, DemoError, run_command, sole_run


@pytest.fixture
def script(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / 'script.py'
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ('task', 'metrics', 'missed'),
    [
        (DETECTOR, {'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.45}, []),
        (DETECTOR, {'coco/bbox_mAP': 0.499, 'coco/segm_mAP': 0.449}, ['box AP', 'mask AP']),
        (DETECTOR, {'coco/bbox_mAP': float('nan'), 'coco/segm_mAP': -1}, ['box AP', 'mask AP']),
        (SEGMENTER, {'mIoU': 75.0}, []),
        (SEGMENTER, {'mIoU': 74.9}, ['mIoU']),
    ],
)
def test_missed_bars(task, metrics, missed):
    assert [score.name for score in task.scores if score.missed(metrics)] == missed


def test_all_output_is_in_the_log(script, tmp_path, console):
    file = script('import sys; print(sys.argv[1]); print("warned", file=sys.stderr)')
    log = tmp_path / 'logs' / 'step.log'
    run_command([file, 'told'], log, str, console)
    assert set(log.read_text().split()) == {'told', 'warned'}


def test_progress_is_printed_now_and_then(script, tmp_path, console, monkeypatch):
    monkeypatch.setattr(tasks, 'POLL_SECONDS', 0.01)
    monkeypatch.setattr(tasks, 'LINE_SECONDS', 0)
    os.mkfifo(tmp_path / 'fifo')
    calls = iter(range(3))

    def progress() -> str:
        if next(calls, None) == 2:
            (tmp_path / 'fifo').write_text('')  # opening it lets the script end
        return 'iteration 3 of 4'

    file = script(f'open({str(tmp_path / "fifo")!r}).read()')
    run_command([file], tmp_path / 'step.log', progress, console)
    assert console.file.getvalue().count('iteration 3 of 4\n') >= 3


def test_failure_shows_the_end_of_the_log_and_what_to_try(script, tmp_path, console):
    file = script('for i in range(100): print("line", i)\nraise SystemExit(3)')
    log = tmp_path / 'step.log'
    with pytest.raises(DemoError) as caught:
        run_command([file], log, str, console)
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
        run_command([file], tmp_path / 'step.log', str, console)


def test_interrupted_command_is_ended(script, tmp_path, console, monkeypatch):
    monkeypatch.setattr(tasks, 'POLL_SECONDS', 0.01)
    log = tmp_path / 'step.log'
    file = script('import os, signal; print(os.getpid(), flush=True); signal.pause()')

    def progress() -> str:
        if log.read_text().endswith('\n'):
            raise KeyboardInterrupt
        return ''

    with pytest.raises(KeyboardInterrupt):
        run_command([file], log, progress, console)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text().split()[0]), 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='known to Linux only')
def test_command_does_not_outlive_a_killed_demo(script, tmp_path):
    fifo = tmp_path / 'fifo'
    os.mkfifo(fifo)
    file = script(
        'import time\n'
        f'with open({str(fifo)!r}, "w", buffering=1) as fifo:\n'
        '    print("runs", file=fifo)\n'
        '    time.sleep(60)\n'
        '    print("outlived it", file=fifo)\n'
    )
    code = (
        'from pathlib import Path; from rich.console import Console\n'
        'from demo.tasks import run_command\n'
        f'run_command([{str(file)!r}], Path({str(tmp_path / "log")!r}), str, Console())'
    )
    demo = subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parents[2])
    with fifo.open() as lines:
        assert lines.readline() == 'runs\n'
        os.kill(demo.pid, signal.SIGKILL)
        demo.wait()
        assert lines.read() == ''  # it ends when the script does


def test_second_run_in_a_folder_is_refused(tmp_path):
    with sole_run(tmp_path / 'demo'):
        with pytest.raises(DemoError, match='Another run'), sole_run(tmp_path / 'demo'):
            pass
        with sole_run(tmp_path / 'other'):
            pass
    with sole_run(tmp_path / 'demo'):
        pass
