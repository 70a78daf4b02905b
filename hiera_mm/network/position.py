"""Position embeddings, and how each one resizes.

An embedding class holds no parameter: the trunk owns them under the names the release gives
them, so that official files need no renaming. The class says which parameters there are and turns
them into an embedding of any map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F

from .variants import did_you_mean

PRETRAIN_GRID = (56, 56)
"""Rows and columns of tokens of the 224x224 images the release was trained on."""


class PositionEmbedding(Protocol):
    """What the trunk asks of a position embedding."""

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the parameters' names and shapes for ``dim`` channels."""

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Return the embedding of a map of ``grid`` tokens, of shape ``(1, dim, *grid)``."""


class Absolute:
    """One learnt vector for each token of the pretraining map (Hiera, section 3.1).

    For a map of another size the whole learnt map is resized bicubically. This is the usual way,
    and a naive one where attention is windowed (arXiv 2311.05613, section 3).
    """

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Return the single parameter: ``pos_embed``, ``(1, 56 * 56, dim)``, row by row."""
        return {'pos_embed': (1, PRETRAIN_GRID[0] * PRETRAIN_GRID[1], dim)}

    def resize(self, parameters: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Resize the learnt map to ``grid``; at 56x56 it is returned unchanged."""
        learnt = parameters['pos_embed'].transpose(1, 2).unflatten(2, PRETRAIN_GRID)
        return learnt if grid == PRETRAIN_GRID else resize_bicubic(learnt, grid)


KINDS: dict[str, Callable[[], PositionEmbedding]] = {'absolute': Absolute}


def make_position_embedding(kind: str) -> PositionEmbedding:
    """Return the position embedding called ``kind``.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(
            f'there is no position embedding called {kind!r}{did_you_mean(str(kind), KINDS)}; '
            f'known kinds: {", ".join(KINDS)}'
        )
    return KINDS[kind]()


def resize_bicubic(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize a map ``(B, C, H, W)`` to ``grid``, computed in float32 at least."""
    precise = x if x.dtype == torch.float64 else x.float()
    return F.interpolate(precise, size=grid, mode='bicubic', align_corners=False).to(x.dtype)


class EvaluationCache:
    """Embeddings of the map sizes met last, for as long as the parameters keep their values.

    A hit is decided by comparing the parameters themselves with a copy taken when the entry was
    made. Their version counters would be cheaper but miss every change made through ``.data``,
    which is how mmengine's EMA hook exchanges weights before an evaluation.
    """

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()
        self._sources: tuple[torch.Tensor, ...] = ()

    def get(
        self,
        grid: tuple[int, int],
        sources: tuple[torch.Tensor, ...],
        make: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """Return the embedding of ``grid``, from ``make()`` if it is not at hand.

        Args:
            grid: Rows and columns of the map.
            sources: All that the embedding is made from.
            make: Makes the embedding.
        """
        if not self._made_from(sources):
            self._entries.clear()
            self._sources = tuple(source.detach().clone() for source in sources)
        if grid in self._entries:
            self._entries.move_to_end(grid)
        else:
            self._entries[grid] = make().detach()
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return self._entries[grid]

    def _made_from(self, sources: tuple[torch.Tensor, ...]) -> bool:
        return len(sources) == len(self._sources) and all(
            old.device == new.device and old.dtype == new.dtype and torch.equal(old, new)
            for old, new in zip(self._sources, sources, strict=True)
        )

    def __getstate__(self) -> dict[str, int]:
        # A copied or pickled network starts with an empty cache.
        return {'capacity': self._capacity}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)
