"""Where weights come from: a path, a URL, or a short name."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.logging import print_log

from ..errors import CheckpointError
from ..network.names import did_you_mean
from . import hub
from .catalog import CATALOG, NON_COMMERCIAL, entry_of
from .downloads import download, place_of


def locate(source: str | os.PathLike) -> Path:
    """Return where a file of weights is on this machine, after downloading it if need be.

    What was downloaded once is taken from the cache, without a connection. The user is told before
    a download if its licence forbids commercial use.

    Args:
        source: A path; ``https://...``, with an optional ``#sha256=...`` at its end; a short name
            of :data:`~hiera_mm.weights.catalog.CATALOG` such as ``release://base/mae_in1k`` or
            ``sam2.1://large``; or ``hf://organisation/repository``, with an optional ``/file``.

    Returns:
        The file; for sharded weights their index, the shards being beside it. A path is returned
        as it is.

    Raises:
        CheckpointError: If the name is unknown, or the file cannot be downloaded whole.
    """
    text = os.fspath(source)
    scheme, separator, _ = text.partition('://')
    if not separator:
        return Path(text).expanduser()
    entry = entry_of(text)
    address = entry.url if entry is not None and text == entry.name else text
    notice = entry is not None and entry.licence == NON_COMMERCIAL
    if address.startswith('hf://'):
        place = address.removeprefix('hf://')
        path = hub.find(place)
        if path is None:
            if notice:
                _tell(text)
            path = hub.fetch(place)
        return path
    if address.startswith(('http://', 'https://')):
        size, sha256 = (entry.size, entry.sha256) if entry is not None else (None, None)
        if notice and not place_of(address, sha256).exists():
            _tell(text)
        return download(address, size, sha256)
    known = [name for name in CATALOG if name.startswith(f'{scheme}://')] or list(CATALOG)
    raise CheckpointError(
        f'there are no weights called {text!r}{did_you_mean(text, known)}. '
        "'python -m hiera_mm.weights' lists the known names; paths, https:// and hf:// are taken "
        'as well.'
    )


def _tell(name: str) -> None:
    print_log(f'{name} is under {NON_COMMERCIAL}: not for commercial use.', logger='current')
