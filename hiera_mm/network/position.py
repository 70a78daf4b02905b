"""Position embeddings, and how each one resizes.

An embedding class holds no parameter: the trunk owns them under the names the release and SAM 2
give them, so that their files need no renaming. The class says which parameters there are and
turns them into an embedding of any map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from ..errors import did_you_mean
from .layout import MASK_UNIT
from .resize import cubic_matrix, resize

PRETRAIN_GRID = (56, 56)
"""Rows and columns of tokens of the 224x224 images the release was trained on."""


class PositionEmbedding(Protocol):
    """What the trunk asks of a position embedding."""

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the parameters' names and shapes for ``dim`` channels."""

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Return the embedding of a map of ``grid`` tokens, of shape ``(1, dim, *grid)``."""


@dataclass(frozen=True)
class Absolute:
    """One learnt vector for each token of the pretraining map (Hiera, section 3.1).

    For a map of another size the whole learnt map is resized bicubically. This is the usual way,
    and a naive one where attention is windowed (arXiv 2311.05613, section 3).

    Attributes:
        grid: Rows and columns of the learnt map.
    """

    grid: tuple[int, int] = PRETRAIN_GRID

    def __post_init__(self) -> None:
        object.__setattr__(self, 'grid', _check_grid(self.grid))

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the single parameter: ``pos_embed``, ``(1, rows * columns, dim)``, row by row."""
        return {'pos_embed': (1, self.grid[0] * self.grid[1], dim)}

    def learnt(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the learnt map, of shape ``(1, dim, *self.grid)``."""
        return parameters['pos_embed'].flatten(0, 1).T.unflatten(1, self.grid).unsqueeze(0)

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Resize the learnt map to ``grid``; at its own size it is returned unchanged."""
        return resize_bicubic(self.learnt(parameters), grid)


@dataclass(frozen=True)
class WindowAligned(Absolute):
    """An absolute map that keeps its windows where it is resized.

    The learnt map is the sum of its mean mask unit, which is tiled, and the rest, which is
    resized. What an absolute map has learnt of the place inside a window then stays there at
    every size (arXiv 2311.05613, section 3, shows what resizing does to it). The parameter
    is that of :class:`Absolute`, so nothing has to be trained anew, and at the size of the learnt
    map the two are the same.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole_units(self.grid, 'window_aligned')

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Tile the mean mask unit over ``grid`` and add the rest, resized."""
        learnt = self.learnt(parameters)
        if grid == self.grid:  # to the bit
            return learnt
        unit = mean_unit(learnt)
        return add_tiled(resize_bicubic(add_tiled(learnt, -unit), grid), unit)


@dataclass(frozen=True)
class AbsoluteWin:
    """A window part, tiled, plus a global part, resized (arXiv 2311.05613, section 4; SAM 2).

    Attributes:
        grid: Rows and columns of the global part; its own size is the only one at which it is
            not resized.
        antialias: Resize the global part as timm's ``abswin`` models do, with the cubic of Keys
            (a = -0.5), instead of as SAM 2 does (a = -0.75).
    """

    grid: tuple[int, int] = (14, 14)
    antialias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, 'grid', _check_grid(self.grid))

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the parameters, both maps.

        ``pos_embed``, the global part, is ``(1, dim, *self.grid)``; ``pos_embed_window``, the
        window part, ``(1, dim, 8, 8)``.
        """
        return {
            'pos_embed': (1, dim, *self.grid),
            'pos_embed_window': (1, dim, MASK_UNIT, MASK_UNIT),
        }

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Tile the window part over ``grid`` and add the global part, resized."""
        resized = resize_bicubic(parameters['pos_embed'], grid, self.antialias)
        return add_tiled(resized, parameters['pos_embed_window'])


@dataclass(frozen=True)
class AbsoluteWinRecursive(AbsoluteWin):
    """An absolute win embedding of the pretraining size, tiled (arXiv 2311.05613, section 4).

    Where the later stages attend in windows as large as the pretraining image, each such window
    sees exactly the positions it was trained with.

    Attributes:
        period: Rows and columns of tokens of the embedding that is tiled; whole mask units. SAM 2's
            windows of 14 (stage 3) are 56 tokens of the first stage, its windows of 16 are 64.
    """

    period: tuple[int, int] = PRETRAIN_GRID

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, 'period', _check_grid(self.period))
        _check_whole_units(self.period, 'absolute_win_recursive')

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Tile the embedding of one period over ``grid``, and cut off what is too much."""
        one = super().resize(parameters, self.period)
        repeats = (-(-grid[0] // self.period[0]), -(-grid[1] // self.period[1]))
        return one.tile(1, 1, *repeats)[..., : grid[0], : grid[1]]


KINDS: dict[str, type[PositionEmbedding]] = {
    'absolute': Absolute,
    'absolute_win': AbsoluteWin,
    'absolute_win_recursive': AbsoluteWinRecursive,
    'window_aligned': WindowAligned,
}


def make_position_embedding(
    spec: str | Mapping[str, object] | PositionEmbedding,
) -> PositionEmbedding:
    """Return the position embedding that ``spec`` describes.

    Args:
        spec: A kind, a dict of its name as ``type`` and its options, or an embedding, which is
            returned as it is.

    Raises:
        TypeError: If ``spec`` or an option has a wrong type.
        ValueError: If there is no such kind, or an option is unknown or impossible.
    """
    if isinstance(spec, tuple(KINDS.values())):
        return spec
    options = dict(type=spec) if isinstance(spec, str) else spec
    if not isinstance(options, Mapping) or not isinstance(options.get('type'), str):
        raise TypeError(
            f'pos_embed must be one of {", ".join(KINDS)}, or a dict with one of them as its type '
            f'and options beside it; got {spec!r}'
        )
    options = dict(options)
    name = options.pop('type')
    if name not in KINDS:
        raise ValueError(
            f'there is no position embedding called {name!r}{did_you_mean(name, KINDS)}; '
            f'known kinds: {", ".join(KINDS)}'
        )
    known = [option.name for option in fields(KINDS[name])]
    for option in options:
        if option not in known:
            raise ValueError(
                f'unknown option {option!r} of the position embedding {name!r}'
                f'{did_you_mean(str(option), known)}; its options are {", ".join(known)}'
            )
    return KINDS[name](**options)


def kind_of(embedding: PositionEmbedding) -> str:
    """Return the name of an embedding's kind."""
    return next(name for name, kind in KINDS.items() if type(embedding) is kind)


def mean_unit(x: torch.Tensor) -> torch.Tensor:
    """Return the mean over all mask units of a map ``(B, C, H, W)``, as ``(B, C, 8, 8)``."""
    return x.unflatten(3, (-1, MASK_UNIT)).unflatten(2, (-1, MASK_UNIT)).mean(dim=(2, 4))


def tile(unit: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Repeat a mask unit ``(B, C, 8, 8)`` over a map of ``grid`` tokens, whole mask units."""
    return unit.tile(1, 1, grid[0] // MASK_UNIT, grid[1] // MASK_UNIT)


def add_tiled(x: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Add a mask unit ``(1, C, 8, 8)`` to each one of a map ``(1, C, H, W)``."""
    units = x.unflatten(3, (-1, MASK_UNIT)).unflatten(2, (-1, MASK_UNIT))
    return (units + unit[:, :, None, :, None]).flatten(4, 5).flatten(2, 3)


def resize_bicubic(x: torch.Tensor, grid: tuple[int, int], antialias: bool = False) -> torch.Tensor:
    """Resize a map ``(B, C, H, W)`` to ``grid``; at its own size it comes out unchanged."""
    matrices = (
        cubic_matrix(size, out, antialias, x) for size, out in zip(x.shape[-2:], grid, strict=True)
    )
    return resize(x, *matrices)


def _check_grid(grid: object) -> tuple[int, int]:
    """Return rows and columns; one number stands for both."""
    pair = (grid, grid) if isinstance(grid, int) else grid
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in pair)
    ):
        raise TypeError(f'the grid of a position embedding is two whole numbers, got {grid!r}')
    if min(pair) < 1:
        raise ValueError(f'the grid of a position embedding must be at least 1x1, got {grid!r}')
    return tuple(pair)


def _check_whole_units(grid: tuple[int, int], kind: str) -> None:
    if grid[0] % MASK_UNIT or grid[1] % MASK_UNIT:
        raise ValueError(
            f"the grid of '{kind}' must be whole mask units, multiples of {MASK_UNIT}; got {grid}"
        )
