"""Where weights come from."""

from __future__ import annotations

import os
from pathlib import Path


def locate(source: str | os.PathLike) -> Path:
    """Stub."""
    return Path(source)
