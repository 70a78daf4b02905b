from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from hiera_mm.engine import CheckpointError, run_tool
from hiera_mm.errors import listing


def test_listing():
    assert listing([]) == ''
    assert listing(['a', 1]) == 'a, 1'
    assert listing('abcd', limit=2) == 'a, b and 2 more'


@pytest.mark.parametrize(('returned', 'code'), [(None, None), (1, 1)])
def test_exit_code(returned, code):
    with pytest.raises(SystemExit) as caught:
        run_tool(lambda: returned)
    assert caught.value.code == code


def test_a_reader_who_goes_away_ends_the_tool_quietly():
    program = 'from hiera_mm.errors import run_tool; run_tool(lambda: print("line\\n" * 99999))'
    with subprocess.Popen(
        [sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tool:
        assert tool.stdout.readline() == b'line\n'
        tool.stdout.close()
        assert tool.stderr.read() == b''
    assert tool.returncode == 128 + signal.SIGPIPE


def test_other_broken_pipes_are_faults():
    def lose_connection() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_tool(lose_connection)


def fail() -> None:
    raise CheckpointError('the reason')


def test_user_error_is_one_paragraph(capsys, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(SystemExit) as caught:
        run_tool(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == '\nCheckpointError: the reason\n'


def test_only_the_first_process_speaks(capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as caught:
        run_tool(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == ''


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 // 0)
