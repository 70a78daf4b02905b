"""Errors that the person at the command line can mend, and how a tool reports them."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn


class UserError(ValueError):
    """Something given from outside is wrong; the message says what, and what to do next."""


class ConfigError(UserError):
    """A config or a command-line option is wrong."""


class DataError(UserError):
    """A data set is missing, damaged, or not the one that the config describes."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another model."""


def listing(names: Sequence[object], limit: int = 8) -> str:
    """Return `names` joined by commas, only the first `limit` of them if they are many."""
    text = ', '.join(str(name) for name in names[:limit])
    rest = len(names) - limit
    return f'{text} and {rest} more' if rest > 0 else text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean X?'`` for the known name nearest to ``word``, else ``''``."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f'; did you mean {near[0]!r}?' if near else ''


def nearest(word: str, known: Mapping[str, str]) -> str:
    """Return ``' Did you mean X or Y?'`` for the known names nearest to ``word``, else ``''``.

    Args:
        word: The misspelt name.
        known: By each name, what to offer for it.
    """
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(known[name] for name in near)}?' if near else ''


def run_tool(main: Callable[[], object]) -> NoReturn:
    """Run a tool's `main` and leave the process with its exit code.

    A `UserError` becomes one paragraph on stderr and exit code 2. A reader who goes away, as `head`
    does, ends the tool quietly. Any other exception is a fault of the program and keeps its
    traceback. Of several processes on a machine, only the first prints, as all of them find the
    same fault.

    Args:
        main: The tool; a whole number that it returns is the exit code, all else means 0.
    """
    try:
        result = main()
        code = result if isinstance(result, int) else None
        sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:
            # Python flushes once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 128 + signal.SIGPIPE
        else:
            raise  # another pipe's
    except UserError as error:
        if os.environ.get('LOCAL_RANK', '0') == '0':
            print(f'\n{type(error).__name__}: {error}', file=sys.stderr)
        code = 2
    sys.exit(code)
