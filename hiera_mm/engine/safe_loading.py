"""Makes everything that mmengine loads go through the safe reader."""

from __future__ import annotations

import os
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.runner import CheckpointLoader

from ..weights.files import read_checkpoint, safe_load


def make_loading_safe() -> None:
    """From now on, let nothing in this process unpickle a checkpoint unsafely.

    mmengine loads weights in many places (``load_from``, ``--resume``, ``init_cfg``), and
    onedl-mmengine answers a refused pickle by running it. This closes every way: torch is told to
    refuse whatever the caller asks for, and both stacks read local files with `read_checkpoint`.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        # onedl-mmengine's remaining backends; its list of safe things has the real `getattr`.
        mmengine_checkpoint._safe_torch_load = safe_load


def load_from_local(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a local checkpoint on behalf of mmengine's `CheckpointLoader`.

    Args:
        filename: Path of the file.
        map_location: Where tensors go, as for `torch.load`.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: As `read_checkpoint`.
    """
    return read_checkpoint(filename, map_location)
