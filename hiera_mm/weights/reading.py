"""Reading weight files of every format, without ever running a pickle."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError, listing

FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
"""Where transformers' ``save_pretrained`` puts weights, the best choice first."""


def read_file(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a weight file, whatever its format and name.

    Args:
        path: A file of torch or of safetensors, the index of a sharded one
            (``*.index.json``), or a folder as transformers' ``save_pretrained`` writes it.
        map_location: Where tensors of a torch file go, as for `torch.load`.

    Returns:
        What the file holds: tensors by name, or a dict with such a dict in it.

    Raises:
        CheckpointError: As :func:`read_checkpoint`; also if a shard is missing.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = next((path / name for name in FOLDER_FILES if (path / name).is_file()), path)
    if path.is_file():
        with path.open('rb') as file:
            head = file.read(16)
        if head[8:9] == b'{':  # after the length of the header, 8 bytes
            return _read_safetensors(path)
        if head[:1] == b'{':
            return _read_shards(path)
    return read_checkpoint(path, map_location)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'{path} is damaged: it begins as a safetensors file of {path.stat().st_size:,} bytes, '
            f'but {str(error).strip()}. Download or save it again.'
        ) from error


def read_index(index: Path) -> dict[str, str]:
    """Return in which file each tensor of sharded weights is, as their ``*.index.json`` says."""
    try:
        return dict(json.loads(index.read_text(encoding='utf-8'))['weight_map'])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index} is no index of sharded weights: JSON with a 'weight_map' was expected."
        ) from error


def _read_shards(index: Path) -> dict[str, Any]:
    files = read_index(index)
    # By its name alone: an index must not reach files elsewhere.
    shards = [index.parent / Path(name).name for name in sorted(set(files.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f'{index} names {len(shards)} files, and {listing(missing)} '
            f'{"is" if len(missing) == 1 else "are"} not beside it. Download the rest.'
        )
    tensors: dict[str, Any] = {}
    for shard in shards:
        tensors |= read_file(shard)
    absent = [name for name in files if name not in tensors]
    if absent:
        raise CheckpointError(f'{index} promises tensors that its files lack: {listing(absent)}.')
    return tensors


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file; tensors and plain values only, no code.

    Args:
        path: The file.
        map_location: Where tensors go, as for `torch.load`.

    Returns:
        What the file holds: mmengine's checkpoint, or a bare state dict.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint, is cut short, holds something
            else than a dict, or holds objects that only running a pickle could make.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise CheckpointError(f'{path} is a folder, not a checkpoint.{_checkpoints_in(path)}')
    if not path.is_file():
        raise CheckpointError(
            f'Checkpoint {path} does not exist (looked for {path.absolute()}).'
            f'{_checkpoints_in(path.parent)}'
        )
    mistaken = not_weights(path)
    if mistaken:
        raise CheckpointError(f'{path} is not a checkpoint: {mistaken}')
    try:
        with path.open('rb') as file:  # given a path, torch would judge by the file's ending
            checkpoint = safe_load(file, map_location)
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found is None:
            raise CheckpointError(_damaged(path)) from error
        raise CheckpointError(
            f'{path} was refused, and nothing in it was run: it asks for {found[1]!r}, which is '
            'neither a tensor nor a plain value, so loading it could run any program. If the file '
            "comes from somebody you trust, ask for one with weights only (torch.save({'state_dict"
            "': model.state_dict()}, file))."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if 'TorchScript' in str(error):
            raise CheckpointError(
                f'{path} is a TorchScript program, not a checkpoint. Use the .pth file that '
                'training saved.'
            ) from error
        raise CheckpointError(_damaged(path)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'{path} holds a {type(checkpoint).__name__}, not a checkpoint: a dict with '
            "'state_dict' in it was expected."
        )
    return checkpoint


def safe_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Call `torch.load` safely; `weights_only` is ignored, and here because mmengine passes it."""
    with torch.serialization.safe_globals(_harmless()):
        return torch.load(file, map_location=map_location, weights_only=True)


def _harmless() -> list[Any]:
    """Return what mmengine's own checkpoints hold besides tensors, all of it inert."""
    core = np.core if np.lib.NumpyVersion(np.__version__) < '2.0.0' else np._core
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    allowed += {type(np.dtype(code)) for code in '?bhilqBHILQefd'}
    allowed.append((_history_statistic, 'builtins.getattr'))
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and numpy 2
        allowed.append((core.multiarray._reconstruct, f'{module}._reconstruct'))
        allowed.append((core.multiarray.scalar, f'{module}.scalar'))
    return allowed


def _history_statistic(owner: object, name: str) -> Callable:
    """Stand in for `getattr`, which a `HistoryBuffer` needs to name its four statistics.

    The real `getattr` must not be allowed: it reaches every function of the process, and torch's
    safe reader has a rebuilding function that calls what it is handed.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr is not allowed for {name!r}')


def not_weights(path: Path) -> str:
    """Return what a file is that was taken for weights by mistake, or ''."""
    with path.open('rb') as file:
        head = file.read(64)
    if not head:
        return 'it is empty.'
    if head.lstrip()[:1] == b'<':
        return (
            'it is a web page, so the download went wrong. Open its link in a browser; on the '
            "Hugging Face hub, links to files have '/resolve/' in them, not '/blob/'."
        )
    if head.startswith(b'version https://git-lfs'):
        return "it is a Git LFS pointer. Fetch the file itself with 'git lfs pull'."
    return ''


def _damaged(path: Path) -> str:
    with path.open('rb') as file:
        zipped = file.read(2) == b'PK'
    if zipped:  # torch's format is a zip file, which has its table at the end
        return (
            f'{path} is damaged: it has {path.stat().st_size:,} bytes, and its end is missing or '
            'broken, as after an interrupted copy or on a full disk. Download or save it again.'
        )
    return f'{path} is not a checkpoint, or is damaged: torch cannot make sense of its contents.'


def _checkpoints_in(folder: Path) -> str:
    """Return a sentence that names checkpoints in `folder`, newest first, or ''."""
    files = sorted(folder.glob('*.pth'), key=lambda file: file.stat().st_mtime, reverse=True)
    return f' {folder} has {", ".join(file.name for file in files[:5])}.' if files else ''
