"""Train, test and predict with a config of either toolbox: checked first, and loaded safely."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import CheckpointError, ConfigError, DataError, UserError, run_tool

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DataError',
    'Predictions',
    'UserError',
    'draw_features',
    'make_loading_safe',
    'predict',
    'run_tool',
    'test',
    'train',
]

_MODULES = {
    'Predictions': 'inference',
    'draw_features': 'features',
    'make_loading_safe': 'checkpoints',
    'predict': 'inference',
    'test': 'commands',
    'train': 'commands',
}


def __getattr__(name: str) -> Any:
    # `import hiera_mm` comes through here, and must not import runners, mmcv and cv2.
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
