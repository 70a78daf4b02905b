"""From what a file holds to parameters under our names, each one accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, listing
from .families import FAMILIES, Family

CONTAINERS = ('state_dict', 'model_state', 'model', 'ema_state_dict', 'state_dict_ema')
"""Where a file keeps its weights if not at the top: mmengine, the release, SAM 2, and averages.

mmengine's EMA hook puts the averaged weights into ``state_dict`` and the last ones of training
into ``ema_state_dict``, so the order is right for it as well.
"""


@dataclass(frozen=True)
class Weights:
    """A Hiera out of a file.

    Attributes:
        family: Whose names the file uses.
        tensors: Parameters by our names.
        dropped: Names that the file has and a backbone has no use for, by the reason.
        prefix: What stood before the family's names, e.g. ``'image_encoder.trunk.'``.
        depths: Blocks of each stage in the file.
    """

    family: Family
    tensors: dict[str, Tensor]
    dropped: dict[str, list[str]]
    prefix: str
    depths: tuple[int, ...]


def interpret(content: Mapping[str, Any], path: object, prefix: str | None = None) -> Weights:
    """Find the Hiera in what a file holds.

    Args:
        content: What :func:`~hiera_mm.weights.files.read_file` returned.
        path: Where it comes from, for messages.
        prefix: What stands before the names of the wanted network; found by itself where the
            file has a single Hiera.

    Returns:
        The network's parameters, and what was left out.

    Raises:
        CheckpointError: If there is no Hiera in the file, or more than one, if it has names that
            its family does not know, or if blocks are missing.
    """
    state = _state_of(content, path)
    family, prefix = _recognise(list(state), path, prefix)
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items()
              if name.startswith(prefix)}  # fmt: skip
    patch = inside[family.anchor]
    if patch.ndim != 4:
        raise CheckpointError(
            f'{path} holds a Hiera for video (its patch embedding has {patch.ndim - 2} dimensions '
            'of space and time); hiera_mm has Hieras for images.'
        )
    depths = _depths(inside, family, path)
    tensors: dict[str, Tensor] = {}
    dropped: dict[str, list[str]] = {}
    unknown = []
    for name, tensor in state.items():
        if not name.startswith(prefix):
            dropped.setdefault('other parts of the model', []).append(name)
            continue
        bare = name.removeprefix(prefix)
        ours = family.ours(bare, depths)
        reason = family.reason_to_drop(bare)
        if ours is not None:
            tensors[ours] = tensor
        elif reason is not None:
            dropped.setdefault(reason, []).append(name)
        else:
            unknown.append(name)
    if unknown:
        others = [
            other.title for other in FAMILIES.values()
            if other is not family and any(_marked(other, n.removeprefix(prefix)) for n in unknown)
        ]  # fmt: skip
        mixed = f' Some are names of {listing(others)}: were two files merged?' if others else ''
        raise CheckpointError(
            f'{path} looks like weights of {family.title}, but has names that no Hiera of that '
            f'family has ({len(unknown)}): {listing(unknown)}.{mixed} Nothing was loaded.'
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f'{path}: {name} is of type {tensor.dtype}, and weights must be floating-point '
                'numbers. Quantised files cannot be read; use the original one.'
            )
    return Weights(family, tensors, dropped, prefix, depths)


def _state_of(content: Mapping[str, Any], path: object) -> dict[str, Tensor]:
    """Return the tensors by name, wherever the file keeps them."""
    for key in CONTAINERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            content = inner
            break
    state = {str(name): v for name, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(
            f'{path} has no weights: tensors by name were expected at the top or under '
            f'{listing(CONTAINERS)}; found {listing(list(content)) or "nothing"}.'
        )
    return state


def _recognise(names: Sequence[str], path: object, prefix: str | None) -> tuple[Family, str]:
    """Return the family, and the prefix of its names."""
    wanted = None if prefix is None else prefix.rstrip('.') + '.' if prefix else ''
    anchors = sorted({family.anchor for family in FAMILIES.values()}, key=len, reverse=True)
    found: dict[str, str] = {}
    for name in names:
        for anchor in anchors:
            if name == anchor or name.endswith(f'.{anchor}'):
                found[name.removesuffix(anchor)] = anchor
                break
    if wanted is not None:
        found = {p: anchor for p, anchor in found.items() if p == wanted}
    if not found:
        where = f' under the prefix {wanted!r}' if wanted else ''
        starts = list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names))
        raise CheckpointError(
            f'{path} holds no Hiera{where}: a parameter named {" or ".join(anchors)} was expected, '
            f'and its names begin with {listing(starts)}.'
        )
    if len(found) > 1:
        raise CheckpointError(
            f'{path} holds {len(found)} networks that may be a Hiera, under the prefixes '
            f'{listing([repr(p) for p in found])}. Say which one is meant with prefix=...'
        )
    prefix, anchor = next(iter(found.items()))
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    marked = [
        family for family in FAMILIES.values()
        if family.anchor == anchor and any(_marked(family, name) for name in inside)
    ]  # fmt: skip
    if len(marked) > 1:
        raise CheckpointError(
            f'{path} mixes names of {" and ".join(family.title for family in marked)}: were two '
            'files merged? Nothing was loaded.'
        )
    family = marked[0] if marked else FAMILIES['ours']
    if family.name == 'timm' and 'pos_embed_window' in inside:
        family = FAMILIES['timm_sam2']
    return family, prefix


def _marked(family: Family, name: str) -> bool:
    return any(re.match(mark, name) for mark in family.marks)


def _depths(inside: Mapping[str, Tensor], family: Family, path: object) -> tuple[int, ...]:
    """Count the blocks of each stage, which show by their channels."""
    dim = inside[family.anchor].shape[0]
    counts: dict[int, set[tuple[int, ...]]] = {}
    for name, tensor in inside.items():
        place = family.block_place(name, 'attn.proj.weight')
        if place is not None and tensor.ndim == 2:
            stage = (tensor.shape[0] // dim).bit_length() - 1
            counts.setdefault(stage, set()).add(place)
    places = sorted(place for stage in counts.values() for place in stage)
    depths = tuple(len(counts.get(stage, ())) for stage in range(max(counts, default=-1) + 1))
    if not places or 0 in depths or not _consecutive(places, depths):
        raise CheckpointError(
            f'{path} is incomplete: the blocks it has are {listing(places) or "none"}, and '
            'consecutive ones in every stage were expected. Download or save it again.'
        )
    return depths


def _consecutive(places: Sequence[tuple[int, ...]], depths: Sequence[int]) -> bool:
    if len(places[0]) == 1:
        return places == [(block,) for block in range(sum(depths))]
    return places == [(s, layer) for s, depth in enumerate(depths) for layer in range(depth)]


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that have NaN or infinite numbers in them."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
