"""Files from the Hugging Face hub, kept in its own cache."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, listing
from .files import FOLDER_FILES, read_index

# huggingface_hub is imported where it is used: that takes half a second and is seldom needed.


def find(place: str) -> Path | None:
    """Return a file of the hub if it is on this machine already; no connection is made.

    Args:
        place: ``organisation/repository``, with an optional ``/file``.

    Returns:
        The file, or the index of sharded weights if all shards are there too; None if something
        has to be downloaded.

    Raises:
        CheckpointError: If ``place`` cannot be the name of anything.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, file = _split(place)

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(repository, name)
        return Path(found) if isinstance(found, str) else None

    with _explained(place):
        for name in [file] if file else FOLDER_FILES:
            path = cached(name)
            if path is not None and all(cached(shard) for shard in _shards(path, name)):
                return path
    return None


def fetch(place: str) -> Path:
    """Download a file of the hub. Without a file's name, take the one that holds the weights.

    Args:
        place: As for :func:`find`.

    Returns:
        The file; for sharded weights their index, the shards being beside it.

    Raises:
        CheckpointError: If there is no such file, there are several to choose from, or the download
            fails.
    """
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, file = _split(place)
    with _explained(place):
        for name in [file] if file else FOLDER_FILES:
            try:
                path = Path(hf_hub_download(repository, name))
            except LocalEntryNotFoundError:  # an EntryNotFoundError too, but of a hub out of reach
                raise
            except EntryNotFoundError:
                if file:
                    raise
                continue
            for shard in _shards(path, name):
                hf_hub_download(repository, shard)
            return path
        return Path(hf_hub_download(repository, _only_one(list_repo_files(repository), repository)))


def _split(place: str) -> tuple[str, str]:
    """Return the repository and the file, '' for none."""
    organisation, _, rest = place.partition('/')
    name, _, file = rest.partition('/')
    if not organisation or not name:
        raise CheckpointError(
            f'hf://{place} must be hf://organisation/repository, with an optional /file at its end.'
        )
    return f'{organisation}/{name}', file


def _only_one(files: list[str], repository: str) -> str:
    """Return the checkpoint of a repository that has none of the usual names."""
    found = [name for name in files if name.endswith(('.pt', '.pth'))]
    if len(found) != 1:
        what = f'several files of weights: {listing(found)}' if found else 'no file of weights'
        raise CheckpointError(
            f'hf://{repository} has {what}. Name the one you want: hf://{repository}/FILE.'
        )
    return found[0]


def _shards(path: Path, name: str) -> list[str]:
    """Return the names in the repository of what an index lists; none for any other file."""
    if not name.endswith('.index.json'):
        return []
    files = read_index(path).values()
    folder = name.rpartition('/')[0]
    return [f'{folder}/{file}' if folder else file for file in sorted(set(files))]


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn whatever the hub's client could not do into a `CheckpointError` that says what helps."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # it lets through those of its HTTP library, which is not always one
        raise CheckpointError(f'hf://{place}: {_explanation(place, error)}') from error


def _explanation(place: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    repository, file = _split(place)
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
        return f'the repository has no file {file!r}; {page}/tree/main shows what it has.'
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'there is no space in {constants.HF_HUB_CACHE}. Make room, or set HF_HOME.'
    return (
        f'it cannot be downloaded from {constants.ENDPOINT}: {str(error).strip()} Check the '
        'connection (https_proxy, HF_ENDPOINT for a mirror, HF_HUB_OFFLINE), or download the file '
        'by other means and give its path.'
    )
