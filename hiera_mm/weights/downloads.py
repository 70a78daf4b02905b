"""Files from web servers, kept on this machine whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from mmengine.logging import print_log

from ..errors import CheckpointError
from .files import is_web_page

TIMEOUT = 60
"""Seconds without an answer after which a server is taken to be dead."""
_ADVICE = (
    ' Check the address, the connection (http_proxy and https_proxy are used if set) and the cache '
    '(HIERA_MM_CACHE moves it), or download the file by other means and give its path.'
)


def cache_folder() -> Path:
    """Return where downloads are kept: ``$HIERA_MM_CACHE``, or a folder in torch.hub's."""
    chosen = os.environ.get('HIERA_MM_CACHE')
    return Path(chosen).expanduser() if chosen else Path(torch.hub.get_dir()) / 'hiera_mm'


def place_of(url: str, sha256: str | None = None) -> Path:
    """Return where the file of a URL is kept once it is downloaded.

    A file is kept by its address and by the hash it was compared with, so that one that was never
    compared does not pass for the right one.

    Args:
        url: As for :func:`download`.
        sha256: As for :func:`download`.

    Raises:
        CheckpointError: If the URL is malformed.
    """
    address, wanted = _parts(url, sha256)
    key = hashlib.sha256(f'{address}#{wanted}'.encode()).hexdigest()[:16]
    return cache_folder() / key / (_file_name(address) or 'weights')


def download(url: str, size: int | None = None, sha256: str | None = None) -> Path:
    """Return the local copy of a file, downloading it the first time.

    Args:
        url: Its address. ``#sha256=`` at its end, or eight or more digits of the hash at the end of
            the file's name, as torch.hub has it (``name-0123abcd.pth``), are checked.
        size: Its size in bytes, if known.
        sha256: Its hash, if known.

    Raises:
        CheckpointError: If the server cannot be reached or refuses, sends a web page, breaks off,
            or sends another file than size or hash say, or if there is no space. Nothing is kept
            then.
    """
    target = place_of(url, sha256)
    if target.exists():
        return target
    address, wanted = _parts(url, sha256)
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / 'lock'):  # the processes of one machine download it once
            if not target.exists():
                _fetch(address, target, size, wanted)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(address, folder) from error
        raise CheckpointError(f'{address} cannot be downloaded: {error}.{_ADVICE}') from error
    return target


def _parts(url: str, sha256: str | None) -> tuple[str, str]:
    """Return the address without its fragment, and what the hash must begin with, '' for none."""
    try:
        address, fragment = urldefrag(url)
        name = _file_name(address)
    except ValueError as error:
        raise CheckpointError(f'{url} is no address: {error}.') from error
    if fragment.startswith('sha256='):
        sha256 = fragment.removeprefix('sha256=').lower()
        if not re.fullmatch('[0-9a-f]{8,64}', sha256):
            raise CheckpointError(
                f'{url}: #sha256= must be followed by 8 to 64 hexadecimal digits of the hash.'
            )
    if sha256:
        return address, sha256
    # Digits without a letter are more likely a date.
    in_name = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.[^.-]+$', name)
    return address, in_name[1] if in_name else ''


def _file_name(address: str) -> str:
    """Return the file's name in an address, without what could lead out of a folder."""
    name = unquote(urlsplit(address).path).rpartition('/')[2]
    return re.sub(r'[^\w.+-]', '_', name)[-100:].lstrip('.')


def _fetch(address: str, target: Path, size: int | None, wanted: str) -> None:
    promised = _ask(address, target.parent, hashed=bool(wanted))
    if size is not None and promised is not None and promised != size:
        raise CheckpointError(
            f'{address} is not the file that was asked for: it has {promised:,} bytes instead of '
            f'{size:,}.'
        )
    for rest in target.parent.glob('*.partial'):  # of a process that was killed
        rest.unlink()
    print_log(f'downloading {address} to {target}', logger='current')
    part = target.with_name(f'{target.name}.part')
    try:
        with _impatient():
            torch.hub.download_url_to_file(address, str(part))
        # The downloader takes a cut connection for the end of the file.
        arrived, whole = part.stat().st_size, size or promised
        if whole is not None and arrived != whole:
            raise CheckpointError(
                f'{address} broke off after {arrived:,} of {whole:,} bytes; nothing was kept. Try '
                'again.'
            )
        found = _hash_of(part) if wanted else ''
        if not found.startswith(wanted):
            raise CheckpointError(
                f'{address} is not the file that was asked for, and was not kept: its SHA-256 is '
                f'{found} and should begin with {wanted}.'
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _ask(address: str, folder: Path, hashed: bool) -> int | None:
    """Make sure that a server has a file and there is room for it; return its size if it says."""
    request = Request(address, headers={'User-Agent': 'hiera_mm'})
    with _impatient(), urlopen(request) as answer:
        length = answer.headers.get('Content-Length')
        chunked = answer.headers.get('Transfer-Encoding', '').lower() == 'chunked'
        head = answer.read(64)
    if is_web_page(head):
        raise CheckpointError(
            f'{address} is a web page, not a file of weights. On the hub, links to files have '
            "'/resolve/' in them, not '/blob/'."
        )
    if not head:
        raise CheckpointError(f'{address} is empty.')
    if length is None and not chunked and not hashed:
        raise CheckpointError(
            f'{address} comes from a server that does not say how long it is, so that a file cut '
            'short would pass for whole. Put the hash of the file behind the address '
            '(#sha256=...), or download it by other means and give its path.'
        )
    size = int(length) if length else None
    if size is not None and size > shutil.disk_usage(folder).free:
        raise _no_space(address, folder, size)
    return size


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _no_space(address: str, folder: Path, size: int | None = None) -> CheckpointError:
    needed = f'{size / 1e6:,.0f} MB are needed and ' if size else ''
    return CheckpointError(
        f'there is no space for {address}: {needed}{shutil.disk_usage(folder).free / 1e6:,.0f} MB '
        f'are free in {folder}; nothing was kept. Make room, or set HIERA_MM_CACHE to another '
        'folder.'
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
