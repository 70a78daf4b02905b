"""Where weights come from: a path, a URL, a short name, or the Hugging Face hub.

What is downloaded is kept whole or not at all: that of web servers in a folder of ours, that of the
hub in the hub's own cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from mmengine.logging import print_log
from tqdm import tqdm

from ..errors import CheckpointError, did_you_mean, listing
from .catalog import CATALOG, NON_COMMERCIAL, entry_of
from .reading import FOLDER_FILES, not_weights, read_index

# huggingface_hub is imported where it is used: that takes half a second and is seldom needed.

TIMEOUT = 60
"""Seconds without an answer after which a server is taken to be dead."""


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
    if '://' not in text:
        return Path(text).expanduser()
    entry, url = entry_of(text), url_of(text)
    notice = ''
    if entry is not None and entry.training.licence == NON_COMMERCIAL:
        notice = f'{text} is under {NON_COMMERCIAL}: not for commercial use.'
    if url.startswith('hf://'):
        return from_hub(url.removeprefix('hf://'), notice)
    size, sha256 = (entry.size, entry.sha256) if entry is not None else (None, None)
    return download(url, size, sha256, notice)


def url_of(source: str, arch: str | None = None) -> str:
    """Return the ``https://`` or ``hf://`` address of a source that is no path.

    Args:
        source: As for :func:`locate`.
        arch: The Hiera that weights are wanted for; those known for it are offered in place of a
            name that is unknown.

    Raises:
        CheckpointError: If the name is unknown.
    """
    entry = entry_of(source)
    url = entry.url if entry is not None and source == entry.name else source
    if url.startswith(('hf://', 'http://', 'https://')):
        return url
    scheme = source.partition('://')[0]
    known = [name for name in CATALOG if name.startswith(f'{scheme}://')] or list(CATALOG)
    raise CheckpointError(
        f'there are no weights called {source!r}'
        f'{names_for(arch) or did_you_mean(source, known)}. '
        "'python -m hiera_mm.weights' lists the known names; paths, https:// and hf:// are taken "
        'as well.'
    )


def names_for(arch: str | None) -> str:
    """Return the short names of an arch's weights as ``'; known for X are A, B'``, or ``''``."""
    names = [name for name, entry in CATALOG.items() if arch and entry.fits(arch)]
    return f'; known for {arch} are {listing(names)}' if names else ''


def cache_folder() -> Path:
    """Return where downloads are kept: ``$HIERA_MM_CACHE``, or a folder in torch.hub's."""
    chosen = os.environ.get('HIERA_MM_CACHE')
    return Path(chosen).expanduser() if chosen else Path(torch.hub.get_dir()) / 'hiera_mm'


def download(
    url: str, size: int | None = None, sha256: str | None = None, notice: str = ''
) -> Path:
    """Return the local copy of a web server's file, downloading it the first time.

    Args:
        url: Its address. ``#sha256=`` at its end, or eight or more digits of the hash at the end of
            the file's name, as torch.hub has it (``name-0123abcd.pth``), are checked.
        size: Its size in bytes, if known.
        sha256: Its hash, if known.
        notice: What the user is told before a download.
    """
    address, name, wanted = _parse(url, sha256)
    # By the hash too: a file that was not compared with it must not pass for the right one.
    key = hashlib.sha256(f'{address}#{wanted}'.encode()).hexdigest()[:16]
    target = cache_folder() / key / name
    if target.exists():
        return target
    of_torch = Path(torch.hub.get_dir(), 'checkpoints', name)  # where mmengine downloads to
    if wanted and of_torch.is_file() and _hash(of_torch).startswith(wanted):
        return of_torch
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / 'lock'):  # the processes of one machine download it once
            if not target.exists():
                for line in filter(None, [notice, f'downloading {address} to {target}']):
                    print_log(line, logger='current')
                _fetch(address, target, size, wanted)
    except CheckpointError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f'there is no space for {address} in {target.parent}: {error.strerror}. Nothing '
                'was kept. Make room, or set HIERA_MM_CACHE to another folder.'
            ) from error
        raise CheckpointError(
            f'{address} cannot be downloaded: {error}. Check the address, the connection '
            '(http_proxy and https_proxy are used if set) and the cache (HIERA_MM_CACHE moves it), '
            'or download the file by other means and give its path.'
        ) from error
    return target


def _parse(url: str, sha256: str | None) -> tuple[str, str, str]:
    """Return address, a name for the file, and what its hash must begin with, '' for anything."""
    try:
        address, fragment = urldefrag(url)
        name = unquote(urlsplit(address).path).rpartition('/')[2]
    except ValueError as error:
        raise CheckpointError(f'{url} is no address: {error}.') from error
    name = re.sub(r'[^\w.+-]', '_', name)[-100:].lstrip('.')  # nothing that leads out of a folder
    if fragment.startswith('sha256='):
        sha256 = fragment.removeprefix('sha256=').lower()
        if not re.fullmatch('[0-9a-f]{8,64}', sha256):
            raise CheckpointError(
                f'{url}: #sha256= must be followed by 8 to 64 hexadecimal digits of the hash.'
            )
    if not sha256:
        # Digits without a letter are more likely a date.
        in_name = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.[^.-]+$', name)
        sha256 = in_name[1] if in_name else ''
    return address, name or 'weights', sha256


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(address: str, target: Path, size: int | None, wanted: str) -> None:
    """Download into a file beside the target, and rename it once it is known to be whole."""
    part = target.with_name(f'{target.name}.part')
    digest = hashlib.sha256()
    request = Request(address, headers={'User-Agent': 'hiera_mm'})
    try:
        with urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers['Content-Length']
            promised = int(length) if length else None
            if None not in (size, promised) and size != promised:
                raise CheckpointError(
                    f'{address} is not the file that was asked for: it has {promised:,} bytes '
                    f'instead of {size:,}.'
                )
            if promised is None and not (wanted or answer.chunked):
                raise CheckpointError(
                    f'{address} comes from a server that does not say how long it is, so that a '
                    'file cut short would pass for whole. Put the hash of the file behind the '
                    'address (#sha256=...), or download it by other means and give its path.'
                )
            free = shutil.disk_usage(part.parent).free
            if promised is not None and promised > free:
                needed = f'{promised / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free'
                raise OSError(errno.ENOSPC, needed)
            bar = tqdm(total=promised, unit='B', unit_scale=True, desc=target.name)
            with part.open('wb') as file, bar:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
        # Python takes a cut connection for the end of the file.
        arrived, whole = part.stat().st_size, promised if size is None else size
        if whole is not None and arrived != whole:
            raise CheckpointError(
                f'{address} broke off after {arrived:,} of {whole:,} bytes; nothing was kept. Try '
                'again.'
            )
        mistaken = not_weights(part)
        if mistaken:
            raise CheckpointError(f'{address} is no file of weights: {mistaken}')
        if not digest.hexdigest().startswith(wanted):
            raise CheckpointError(
                f'{address} is not the file that was asked for, and was not kept: its SHA-256 is '
                f'{digest.hexdigest()} and should begin with {wanted}.'
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def from_hub(place: str, notice: str = '') -> Path:
    """Return the hub's file in its cache, downloading it the first time.

    Args:
        place: ``organisation/repository``, with an optional ``/file``. Without a file's name, the
            one that holds the weights is taken.
        notice: What the user is told before a download.
    """
    organisation, _, rest = place.partition('/')
    name, _, file = rest.partition('/')
    if not organisation or not name:
        raise CheckpointError(
            f'hf://{place} must be hf://organisation/repository, with an optional /file at its end.'
        )
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = f'{organisation}/{name}'
    try:
        try:
            return _hub_file(repository, file, cached=True)
        except LocalEntryNotFoundError:
            if notice:
                print_log(notice, logger='current')
            return _hub_file(repository, file, cached=False)
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client lets through those of its HTTP library
        reason = _hub_reason(repository, error)
        raise CheckpointError(f'hf://{place}: {reason}') from error


def _hub_file(repository: str, file: str, cached: bool) -> Path:
    """Return a file and see to its shards, from the hub or from its cache alone."""
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in [file] if file else FOLDER_FILES:
        try:
            path = Path(hf_hub_download(repository, name, local_files_only=cached))
        except EntryNotFoundError as error:
            # The local one means that the cache lacks it, or that the hub is out of reach.
            if file or (isinstance(error, LocalEntryNotFoundError) and not cached):
                raise
            continue
        if name.endswith('.index.json'):
            folder, slash, _ = name.rpartition('/')
            for shard in sorted(set(read_index(path).values())):
                hf_hub_download(repository, f'{folder}{slash}{shard}', local_files_only=cached)
        return path
    if cached:
        raise LocalEntryNotFoundError(f'no weights of {repository} in the cache')
    found = [name for name in list_repo_files(repository) if name.endswith(('.pt', '.pth'))]
    if len(found) != 1:
        what = f'several files of weights: {listing(found)}' if found else 'no file of weights'
        raise CheckpointError(
            f'hf://{repository} has {what}. Name the one you want: hf://{repository}/FILE.'
        )
    return Path(hf_hub_download(repository, found[0]))


def _hub_reason(repository: str, error: Exception) -> str:
    """Say why a file of the hub cannot be had, and what helps."""
    from huggingface_hub import constants, errors

    page = f'{constants.ENDPOINT}/{repository}'
    if isinstance(error, errors.GatedRepoError):
        return (
            f'its owner asks for your consent first. Accept the conditions on {page}, then log in '
            "with 'hf auth login' or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f'there is no repository {repository} at {constants.ENDPOINT}, or it is private. Check '
            "the name; for a private one log in with 'hf auth login' or set HF_TOKEN."
        )
    if isinstance(error, errors.HFValidationError):
        return f'this cannot be the name of a repository: {error}'
    offline = isinstance(error, errors.LocalEntryNotFoundError)  # an EntryNotFoundError as well
    if isinstance(error, errors.EntryNotFoundError) and not offline:
        return f'there is no such file; {page}/tree/main shows what there is. {error}'
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'there is no space in {constants.HF_HUB_CACHE}. Make room, or set HF_HOME.'
    return (
        f'it cannot be downloaded from {constants.ENDPOINT}: {str(error).strip()} Check the '
        'connection (https_proxy, HF_ENDPOINT for a mirror, HF_HUB_OFFLINE), or download the file '
        'by other means and give its path.'
    )
