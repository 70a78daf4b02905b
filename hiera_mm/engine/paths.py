"""Folders that a tool is going to write to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import ConfigError


def make_folder(folder: str | Path) -> Path:
    """Make a folder if need be, and make sure that files can be written into it.

    Args:
        folder: The folder.

    Returns:
        The folder.

    Raises:
        ConfigError: If it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f'Cannot write to the folder {folder.absolute()}: {error.strerror}.'
        ) from error
    return folder
