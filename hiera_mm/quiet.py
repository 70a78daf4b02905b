"""The one line that the onedl forks print at every command, and that looks like a failure."""

from __future__ import annotations

import functools
from typing import Any

import mmengine.logging


def leave_out_onedl() -> None:
    """From now on, do not print that OneDL, a service of the forks' makers, cannot be imported.

    The forks log it for debugging, but with no logger, and then mmengine prints whatever the level.
    """
    print_log = mmengine.logging.print_log

    @functools.wraps(print_log)
    def print_other(msg: Any, *args: Any, **kwargs: Any) -> None:
        if not str(msg).startswith('Could not import OneDL'):
            print_log(msg, *args, **kwargs)

    mmengine.logging.print_log = print_other
