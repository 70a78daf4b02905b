"""The size of the image: as asked for, or as the config tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ..engine.config import walk
from ..errors import ConfigError, UserError
from ..network.trunk import WINDOW_PIXELS

Size = tuple[int, int]
"""Height and width in pixels."""


def parse_size(values: Sequence[int]) -> Size:
    """Return height and width of what was given as one side or as both.

    Args:
        values: One number, or height and width.

    Raises:
        UserError: If there are more numbers, or too small ones.
    """
    if len(values) not in (1, 2):
        raise UserError(
            f'--size {" ".join(map(str, values))}: a size is one number for a square or height '
            'and width, such as --size 800 1344. Repeat --size for several sizes.'
        )
    height, width = values[0], values[-1]
    if min(height, width) < WINDOW_PIXELS:
        raise UserError(
            f'--size {" ".join(map(str, values))}: a side must be at least {WINDOW_PIXELS} pixels.'
        )
    return height, width


def test_size(cfg: Config) -> Size:
    """Return the size of an image in the config's test, rounded up to multiples of 32.

    It is that to which images are padded, else that to which they are resized; of a longest and a
    shortest side, an image that is wider than high has both.

    Args:
        cfg: A config with a test pipeline.

    Raises:
        ConfigError: If the config tells neither.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    steps = [node for node in walk(loader.get('dataset', {})) if 'type' in node]
    for kind, read in (('Pad', _padded), ('Resize', _resized)):
        sizes = [read(step) for step in steps if step['type'] == kind]
        known = [size for size in sizes if size is not None]
        if known:
            height, width = (-(-side // WINDOW_PIXELS) * WINDOW_PIXELS for side in known[-1])
            return height, width
    raise ConfigError(
        f'{cfg.filename} has no Resize with a scale and no Pad with a size in its test pipeline: '
        'say the size with --size HEIGHT WIDTH.'
    )


test_size.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _padded(step: Any) -> Size | None:
    size = step.get('size')  # the toolboxes' width and height
    return (int(size[1]), int(size[0])) if _is_pair(size) else None


def _resized(step: Any) -> Size | None:
    scale = step.get('scale')
    if isinstance(scale, int):
        return (scale, scale)
    if not _is_pair(scale):
        return None
    if step.get('keep_ratio'):
        return (min(scale), max(scale))
    return (int(scale[1]), int(scale[0]))


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, int) and side > 0 for side in value)
    )
