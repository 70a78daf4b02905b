"""Where weights come from: a path, a URL, or a short name. Downloads are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock
from mmengine.logging import print_log

from ..errors import CheckpointError, listing
from ..network.names import did_you_mean
from .catalog import CATALOG, NON_COMMERCIAL
from .files import FOLDER_FILES, is_web_page

TIMEOUT = 60
"""Seconds without an answer after which a server is taken to be dead."""


def locate(source: str | os.PathLike) -> Path:
    """Return where a file of weights is on this machine, after downloading it if need be.

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
    entry = CATALOG.get(text)
    url = text if entry is None else entry.url
    if url.startswith('hf://'):
        path = _from_hub(url.removeprefix('hf://'))
    elif url.startswith(('http://', 'https://')):
        path = download(url)
    else:
        known = [name for name in CATALOG if name.startswith(f'{scheme}://')] or list(CATALOG)
        raise CheckpointError(
            f'there are no weights called {text!r}{did_you_mean(text, known)}. '
            "'python -m hiera_mm.weights' lists the known names; paths, https:// and hf:// are "
            'taken as well.'
        )
    if entry is not None and entry.licence == NON_COMMERCIAL:
        _tell_once(text, f'{text} is under {entry.licence}: not for commercial use.')
    return path


def cache_folder() -> Path:
    """Return where downloads are kept: ``$HIERA_MM_CACHE``, or a folder in torch.hub's."""
    return Path(os.environ.get('HIERA_MM_CACHE') or Path(torch.hub.get_dir()) / 'hiera_mm')


def download(url: str) -> Path:
    """Return the local copy of a file, downloading it the first time.

    Args:
        url: Its address. ``#sha256=`` at its end, or eight or more digits of the hash at the end of
            the file's name, as torch.hub has it (``name-0123abcd.pth``), are checked.

    Raises:
        CheckpointError: If the server cannot be reached or refuses, sends a web page, breaks off
            or sends another file than the hash says, or if there is no space. Nothing is kept then.
    """
    address, _, fragment = url.partition('#')
    name = urllib.parse.unquote(urllib.parse.urlparse(address).path.rpartition('/')[2]) or 'weights'
    in_name = re.search(r'-([0-9a-f]{8,64})\.', name)
    sha256 = fragment.removeprefix('sha256=').lower() or (in_name[1] if in_name else '')
    if not re.fullmatch(r'[0-9a-f]*', sha256):
        raise CheckpointError(
            f'{url}: #sha256= must be followed by the hash in hexadecimal digits.'
        )
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / name
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / 'lock'):  # the processes of one machine download it once
            if not target.exists():
                _fetch(address, target, sha256)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(address, folder) from error
        raise CheckpointError(f'{address} cannot be downloaded: {error}.{_ADVICE}') from error
    return target


_ADVICE = (
    ' Check the address and the connection (https_proxy is used if set), or download the file by '
    'other means and name its path.'
)


def _fetch(url: str, target: Path, sha256: str) -> None:
    size = _ask(url, target.parent)
    print_log(f'downloading {url} to {target}', logger='current')
    part = target.with_name(f'{target.name}.part')
    try:
        with _impatient():
            torch.hub.download_url_to_file(url, str(part), hash_prefix=sha256 or None)
        # The downloader takes a cut connection for the end of the file.
        if size is not None and part.stat().st_size != size:
            raise CheckpointError(
                f'{url} broke off after {part.stat().st_size:,} of {size:,} bytes; nothing was '
                'kept. Try again.'
            )
        part.replace(target)
    except RuntimeError as error:
        raise CheckpointError(
            f'{url} is not the file that was asked for, and was not kept: its SHA-256 does not '
            f'begin with {sha256}. ({error})'
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _ask(url: str, folder: Path) -> int | None:
    """Make sure that a server has a file and there is room for it; return its size if it says."""
    request = urllib.request.Request(url, headers={'User-Agent': 'hiera_mm'})
    with _impatient(), urllib.request.urlopen(request) as answer:
        length = answer.headers.get('Content-Length')
        head = answer.read(64)
    if is_web_page(head):
        raise CheckpointError(
            f'{url} is a web page, not a file of weights. On the hub, links to files have '
            "'/resolve/' in them, not '/blob/'."
        )
    size = int(length) if length else None
    if size is not None and size > shutil.disk_usage(folder).free:
        raise _no_space(url, folder, size)
    return size


def _no_space(url: str, folder: Path, size: int | None = None) -> CheckpointError:
    needed = f'{size / 1e6:,.0f} MB are needed and ' if size else ''
    return CheckpointError(
        f'there is no space for {url}: {needed}{shutil.disk_usage(folder).free / 1e6:,.0f} MB are '
        f'free in {folder}; nothing was kept. Make room, or set HIERA_MM_CACHE to another folder.'
    )


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let connections fail that say nothing for a while: torch.hub sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_hub(place: str) -> Path:
    """Download from the Hugging Face hub, into its own cache."""
    # It takes half a second to import and is seldom needed.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    organisation, _, rest = place.partition('/')
    repository, _, file = rest.partition('/')
    if not organisation or not repository:
        raise CheckpointError(
            f'hf://{place} must be hf://organisation/repository, with an optional /file at its end.'
        )
    name = f'{organisation}/{repository}'
    try:
        for candidate in [file] if file else FOLDER_FILES:
            try:
                path = Path(hf_hub_download(name, candidate))
            except LocalEntryNotFoundError:  # offline, which is no answer
                raise
            except EntryNotFoundError:
                continue
            if path.name.endswith('.index.json'):
                index = json.loads(path.read_text(encoding='utf-8'))
                for shard in sorted(set(index['weight_map'].values())):
                    hf_hub_download(name, shard)
            return path
    except (HfHubHTTPError, HFValidationError, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CheckpointError(f'there is no space for hf://{place}: {error}.') from error
        raise CheckpointError(
            f'hf://{place} cannot be downloaded: {str(error).strip()} (A private repository needs '
            "a token: 'hf auth login'.)"
        ) from error
    raise CheckpointError(
        f'hf://{name} has no {file or listing(FOLDER_FILES)}; name a file that it has, as '
        f'hf://{name}/FILE.'
    )


def _tell_once(name: str, text: str) -> None:
    """Log a line, if it has not been logged on this machine before."""
    told = cache_folder() / 'told' / hashlib.sha256(name.encode()).hexdigest()[:16]
    if told.exists():
        return
    print_log(text, logger='current')
    with contextlib.suppress(OSError):  # a cache that cannot be written only means telling again
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch()
