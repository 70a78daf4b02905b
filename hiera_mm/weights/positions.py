"""Position embeddings of one form or size, turned into another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network.layout import MASK_UNIT
from ..network.position import (
    PRETRAIN_GRID,
    Absolute,
    AbsoluteWin,
    PositionEmbedding,
    kind_of,
    mean_unit,
    resize_bicubic,
    tile,
)


def adapt(
    parameters: Mapping[str, Tensor], theirs: PositionEmbedding, ours: PositionEmbedding
) -> tuple[dict[str, Tensor], str | None]:
    """Turn the parameters of one position embedding into those of another.

    Args:
        parameters: Those of ``theirs``.
        theirs: The embedding in the file.
        ours: The embedding of the network.

    Returns:
        The parameters of ``ours``, and what was done in a few words; None if nothing had to be.

    Raises:
        CheckpointError: If there is no way from the one to the other.
    """
    rows, columns = ours.grid
    if isinstance(theirs, Absolute) and isinstance(ours, Absolute):
        if theirs.grid == ours.grid:
            return dict(parameters), None
        # The two kinds have the same parameter, and a resized map ends up as the network's own
        # kind would have resized it while running.
        _require_whole_units(theirs)
        resized = type(ours)(theirs.grid).resize(parameters, ours.grid)
        note = f'{_size(theirs)} map resized to {rows}x{columns}, {kind_of(ours)}'
        return {'pos_embed': _rows(resized)}, note
    if isinstance(theirs, AbsoluteWin) and isinstance(ours, AbsoluteWin):
        if theirs.grid == ours.grid:
            note = None
            if theirs.antialias != ours.antialias:
                note = 'as in the file, but resized with another cubic (antialias)'
            return dict(parameters), note
        resized = resize_bicubic(parameters['pos_embed'], ours.grid, ours.antialias)
        note = f'global part resized from {_size(theirs)} to {rows}x{columns}'
        return {**parameters, 'pos_embed': resized}, note
    if isinstance(theirs, AbsoluteWin):
        note = f'window part tiled over {rows}x{columns}, global part resized from {_size(theirs)}'
        return {'pos_embed': _rows(theirs.resize(parameters, ours.grid))}, note
    _require_whole_units(theirs)
    learnt = theirs.learnt(parameters)
    window, rest = split(learnt, ours)
    again = ours.resize({'pos_embed': rest, 'pos_embed_window': window}, theirs.grid)
    residual = ((again - learnt).square().mean() / learnt.square().mean()).sqrt().item()
    note = (
        f'{_size(theirs)} map split into a window part and a global part of {rows}x{columns}; '
        f'at {theirs.grid[0] * 4}x{theirs.grid[1] * 4} pixels '
        + ('equal to the map' if residual < 1e-5 else f'{residual:.1%} of it is lost (RMS)')
    )
    return {'pos_embed': rest, 'pos_embed_window': window}, note


def window_share(parameters: Mapping[str, Tensor], embedding: PositionEmbedding) -> float:
    """Return how much of an embedding's variance its mean mask unit holds, from 0 to 1.

    It says how much is at stake when the embedding is resized: what is in the mean mask unit, an
    absolute map loses at other sizes.

    Args:
        parameters: Those of the embedding.
        embedding: Of whole mask units at its own size.
    """
    grid = embedding.grid if isinstance(embedding, Absolute) else PRETRAIN_GRID
    whole = embedding.resize(parameters, grid)
    return float(mean_unit(whole).var(dim=(2, 3)).sum() / whole.var(dim=(2, 3)).sum())


def split(learnt: Tensor, embedding: AbsoluteWin) -> tuple[Tensor, Tensor]:
    """Split an absolute map into the two parts of an absolute win embedding.

    The window part is the map's mean mask unit. The global part is what, resized to the map,
    comes nearest to the rest in least squares; a global part as large as the map is the rest.

    Args:
        learnt: The map, ``(1, C, H, W)``, of whole mask units.
        embedding: The form to split into.

    Returns:
        The window part ``(1, C, 8, 8)`` and the global part ``(1, C, *embedding.grid)``, in the
        dtype of the map.
    """
    window = mean_unit(learnt)
    grid = tuple(learnt.shape[2:])
    rest = learnt - tile(window, grid)
    if grid == embedding.grid:
        return window, rest
    # Resizing is linear and works on rows and columns apart: rest = R @ part @ C.T.
    rows, columns = (
        _resizing_matrix(small, large, embedding.antialias)
        for small, large in zip(embedding.grid, grid, strict=True)
    )
    part = torch.linalg.pinv(rows) @ rest.double() @ torch.linalg.pinv(columns).T
    return window, part.to(learnt.dtype)


def _resizing_matrix(small: int, large: int, antialias: bool) -> Tensor:
    """Return the matrix (large, small) that resizes a column bicubically."""
    unit_columns = torch.eye(small, dtype=torch.float64)[:, None, :, None].expand(-1, -1, -1, 2)
    return resize_bicubic(unit_columns, (large, 2), antialias)[:, 0, :, 0].T


def _rows(image: Tensor) -> Tensor:
    """Return a map ``(1, C, H, W)`` as ``(1, H * W, C)``."""
    return image.flatten(2).transpose(1, 2).contiguous()


def _size(embedding: PositionEmbedding) -> str:
    return f'{embedding.grid[0]}x{embedding.grid[1]}'


def _require_whole_units(theirs: Absolute) -> None:
    if theirs.grid[0] % MASK_UNIT or theirs.grid[1] % MASK_UNIT:
        raise CheckpointError(
            f'the position embedding of the file covers {_size(theirs)} tokens, which are not '
            f'whole mask units of {MASK_UNIT}x{MASK_UNIT}; no public Hiera is like this.'
        )
