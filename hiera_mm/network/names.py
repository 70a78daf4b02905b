"""Answers to a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


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
