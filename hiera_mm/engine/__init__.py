"""Train, test and predict with a config of either toolbox: checked first, and loaded safely."""

from __future__ import annotations

from ..errors import CheckpointError, ConfigError, DataError, UserError, run_tool
from .predict import Predictions, predict
from .runner import test, train
from .safe_loading import make_loading_safe

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DataError',
    'Predictions',
    'UserError',
    'make_loading_safe',
    'predict',
    'run_tool',
    'test',
    'train',
]
