"""Putting weights into a network: everything is checked first, then everything is copied."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..errors import CheckpointError, listing
from ..network import HieraTrunk, Variant
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
from ..network.resize import cubic_matrix
from . import architecture
from .families import OUTPUTS, Weights, interpret
from .reading import read_file
from .sources import locate

STEM = 'patch_embed.proj.weight'


@dataclass(frozen=True)
class Report:
    """What became of a file's weights.

    Attributes:
        source: What the user named.
        family: Whose names the file uses.
        arch: The published Hiera that it is, or a description of one of the user's own.
        loaded: Names, ours, that were filled.
        dropped: Names, the file's, that were left out, by the reason.
        kept: Names, ours, that are not in the file and keep their initial values, by design.
        remarks: What else is worth knowing.
    """

    source: str
    family: str
    arch: str
    loaded: list[str]
    dropped: Mapping[str, list[str]]
    kept: list[str]
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ('family', self.family),
            ('architecture', self.arch),
            ('loaded', f'{len(self.loaded)} tensors, all that the network takes from a file'),
        ]
        for reason, names in self.dropped.items():
            rows.append(('left out', f'{len(names)} tensors: {reason} ({_starts(names)})'))
        if self.kept:
            rows.append(('not in file', f'{len(self.kept)} tensors: {_starts(self.kept)}'))
        rows += [('note', remark) for remark in self.remarks]
        return '\n'.join(
            [f'Hiera weights from {self.source}', *(f'  {key:<13} {text}' for key, text in rows)]
        )


@dataclass(frozen=True)
class Plan:
    """Weights that are known to fit a network.

    Attributes:
        tensors: What is to be copied, by the network's names.
        report: What will have become of the file's weights.
        rest: What else is in the file, by its own names.
    """

    tensors: dict[str, Tensor]
    report: Report
    rest: dict[str, Tensor]


def read(source: str | os.PathLike, prefix: str | None = None) -> Weights:
    """Read the Hiera out of a file of any known family.

    Args:
        source: A path, a URL or a short name; see :func:`~hiera_mm.weights.sources.locate`.
        prefix: What stands before the wanted network's names, where the file has several.

    Returns:
        The parameters under our names.

    Raises:
        CheckpointError: If the file cannot be had or read, or does not hold exactly one Hiera.
    """
    path = locate(source)
    return interpret(read_file(path), path, prefix)


def variant_of(source: str | os.PathLike, prefix: str | None = None) -> Variant:
    """Return the architecture of the Hiera in a file, as ``arch='auto'`` needs it.

    Args:
        source: As for :func:`read`.
        prefix: As for :func:`read`.

    Raises:
        CheckpointError: As :func:`read`; also if the weights do not tell.
    """
    return architecture.resolve(read(source, prefix), source)


def load(
    network: HieraTrunk,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    allow_nonfinite: bool = False,
    adapt_in_channels: bool = True,
) -> Report:
    """Load weights of any known family into a network, and log what became of them.

    Args:
        network: The network; nothing of it changes unless all is well.
        source: As for :func:`read`.
        prefix: As for :func:`read`.
        allow_nonfinite: As for :func:`plan`.
        adapt_in_channels: As for :func:`plan`.

    Returns:
        What became of the weights.

    Raises:
        CheckpointError: As :func:`plan`.
    """
    ready = plan(
        network,
        source,
        prefix=prefix,
        allow_nonfinite=allow_nonfinite,
        adapt_in_channels=adapt_in_channels,
    )
    network.load_state_dict(ready.tensors, strict=False)
    print_log(str(ready.report), logger='current')
    return ready.report


def plan(
    network: HieraTrunk,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    allow_nonfinite: bool = False,
    adapt_in_channels: bool = True,
) -> Plan:
    """Find out how weights go into a network, without touching it.

    Args:
        network: The network, on any device.
        source: As for :func:`read`.
        prefix: As for :func:`read`.
        allow_nonfinite: Take weights with NaN or infinite numbers in them.
        adapt_in_channels: Turn a patch embedding of RGB images into one of the network's channels;
            otherwise other channels are refused.

    Returns:
        The tensors to copy, adapted to the network's position embedding and channels, and the
        report.

    Raises:
        CheckpointError: As :func:`read`; also if the architecture is another one, a parameter is
            missing or has another shape, or a number is not finite.
    """
    weights = read(source, prefix)
    remark = architecture.require_same(weights, network, source)
    remarks = [remark] if remark else []
    tensors = dict(weights.tensors)
    dropped = {reason: list(names) for reason, names in weights.dropped.items()}

    bad = nonfinite(tensors, source, allow_nonfinite)
    if bad:
        remarks.append(f'NaN or infinite numbers in {listing(bad)}')

    theirs = architecture.position_of(weights, source)
    learnt = {name: tensors.pop(name) for name in theirs.shapes(1)}
    adapted, done = adapt_position(learnt, theirs, network.position)
    tensors |= adapted
    remarks.append(f'position embedding {kind_of(network.position)}: {done or "as in the file"}')

    wanted = dict(network.named_parameters())
    have, want = tensors[STEM].shape[1], wanted[STEM].shape[1]
    if have != want:
        if not adapt_in_channels or have != 3:
            raise CheckpointError(
                f'{source} is for images of {have} channels, and this network has '
                f'in_channels={want}. Nothing was loaded. '
                + (
                    'adapt_in_channels=True adapts the patch embedding.'
                    if have == 3
                    else 'Only patch embeddings of 3 channels can be adapted to others.'
                )
            )
        tensors[STEM] = adapt_stem(tensors[STEM], want)
        remarks.append(
            f'patch embedding of 3 channels {"summed" if want == 1 else "repeated and rescaled"} '
            f'for in_channels={want}'
        )

    unused = [name for name in tensors if name not in wanted]
    # Left out with their stage they do no harm; left out of a stage that is there, they do.
    if any('.rel_pos_' in name and f'{name[:-10]}.qkv.weight' in wanted for name in unused):
        raise CheckpointError(
            f"{source} was trained with relative position: set rel_pos='global'. Nothing was "
            'loaded.'
        )
    for name in unused:
        del tensors[name]
        reason = (
            'norms or projections of outputs, which this network does not have'
            if name.startswith(OUTPUTS)
            else 'stages after the last of out_indices'
        )
        dropped.setdefault(reason, []).append(name)
    missing = [name for name in wanted if name not in tensors]
    kept = [name for name in missing if name.startswith(OUTPUTS) or '.rel_pos_' in name]
    if len(missing) > len(kept):
        absent = [name for name in missing if name not in kept]
        raise CheckpointError(
            f'{source} is incomplete: {len(absent)} parameters of the network are not in it: '
            f'{listing(absent)}. Nothing was loaded.'
        )
    others = [
        f'{name} (file {list(tensor.shape)}, network {list(wanted[name].shape)})'
        for name, tensor in tensors.items()
        if tensor.shape != wanted[name].shape
    ]
    if others:
        raise CheckpointError(
            f'{source} has parameters of other shapes than the network: {listing(others)}. '
            'Nothing was loaded.'
        )
    if weights.family.name == 'transformers' and any(n.startswith('out_norms.') for n in tensors):
        remarks.append(
            'norms of outputs loaded; transformers uses an eps of 1e-5 for them (out_norm=dict('
            "type='LN', eps=1e-5))"
        )
    report = Report(
        source=str(source),
        family=weights.family.title,
        arch=architecture.name_of(network.variant) or architecture.describe(weights),
        loaded=list(tensors),
        dropped=dropped,
        kept=kept,
        remarks=remarks,
    )
    return Plan(tensors, report, weights.rest)


def nonfinite(tensors: Mapping[str, Tensor], source: object, allowed: bool) -> list[str]:
    """Return the names of tensors with NaN or infinite numbers in them.

    Raises:
        CheckpointError: If there are any and they are not allowed.
    """
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad and not allowed:
        raise CheckpointError(
            f'{source} has NaN or infinite numbers in {len(bad)} tensors: {listing(bad)}. Such a '
            'network computes nothing; use another file. (allow_nonfinite=True loads it all the '
            'same.)'
        )
    return bad


def _starts(names: list[str]) -> str:
    """Name what the names belong to, shortly: their first parts."""
    return listing(list(dict.fromkeys(name.split('.')[0] for name in names)), limit=5)


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Turn a convolution ``(C, 3, 7, 7)`` of RGB images into one of other channels, as timm does.

    For one channel the three are summed, which is what a grey image repeated three times would
    give. Otherwise they are repeated, and rescaled so that the sum keeps its size.
    """
    precise = weight if weight.dtype == torch.float64 else weight.float()
    if in_channels == 1:
        adapted = precise.sum(dim=1, keepdim=True)
    else:
        repeated = precise.repeat(1, -(-in_channels // 3), 1, 1)[:, :in_channels]
        adapted = repeated * (3 / in_channels)
    return adapted.to(weight.dtype)


def adapt_position(
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
    before, after = (f'{rows}x{columns}' for rows, columns in (theirs.grid, ours.grid))
    if isinstance(theirs, AbsoluteWin) and isinstance(ours, AbsoluteWin):
        if theirs.grid != ours.grid:
            resized = resize_bicubic(parameters['pos_embed'], ours.grid, ours.antialias)
            note = f'global part resized from {before} to {after}'
            return {**parameters, 'pos_embed': resized}, note
        note = 'as in the file, but resized with another cubic (antialias)'
        return dict(parameters), note if theirs.antialias != ours.antialias else None
    if isinstance(theirs, AbsoluteWin):
        note = f'window part tiled over {after}, global part resized from {before}'
        return {'pos_embed': _rows(theirs.resize(parameters, ours.grid))}, note
    if isinstance(ours, Absolute) and theirs.grid == ours.grid:
        return dict(parameters), None  # the two kinds have the same parameter
    if any(side % MASK_UNIT for side in theirs.grid):
        raise CheckpointError(
            f'the position embedding of the file covers {before} tokens, which are not whole mask '
            f'units of {MASK_UNIT}x{MASK_UNIT}; no public Hiera is like this.'
        )
    if isinstance(ours, Absolute):
        # As the network's own kind would have resized it while running.
        resized = type(ours)(theirs.grid).resize(parameters, ours.grid)
        return {'pos_embed': _rows(resized)}, f'{before} map resized to {after}, {kind_of(ours)}'
    learnt = theirs.learnt(parameters)
    window, rest = split(learnt, ours)
    adapted = {'pos_embed': rest, 'pos_embed_window': window}
    again = ours.resize(adapted, theirs.grid)
    residual = ((again - learnt).square().mean() / learnt.square().mean()).sqrt().item()
    note = (
        f'{before} map split into a window part and a global part of {after}; '
        f'at {theirs.grid[0] * 4}x{theirs.grid[1] * 4} pixels '
        + ('equal to the map' if residual < 1e-5 else f'{residual:.1%} of it is lost (RMS)')
    )
    return adapted, note


def _rows(image: Tensor) -> Tensor:
    """Return a map ``(1, C, H, W)`` as ``(1, H * W, C)``."""
    return image.flatten(2).transpose(1, 2).contiguous()


def split(learnt: Tensor, embedding: AbsoluteWin) -> tuple[Tensor, Tensor]:
    """Split an absolute map ``(1, C, H, W)`` into window and global part of an absolute win one.

    The window part ``(1, C, 8, 8)`` is the map's mean mask unit. The global part
    ``(1, C, *embedding.grid)`` is what, resized to the map, comes nearest to the rest in least
    squares; one as large as the map is the rest.
    """
    window = mean_unit(learnt)
    grid = tuple(learnt.shape[2:])
    rest = learnt - tile(window, grid)
    if grid == embedding.grid:
        return window, rest
    # Resizing is linear and works on rows and columns apart: rest = R @ part @ C.T.
    precise = rest.double()
    rows, columns = (
        torch.linalg.pinv(cubic_matrix(small, large, embedding.antialias, precise))
        for small, large in zip(embedding.grid, grid, strict=True)
    )
    return window, (rows @ precise @ columns.T).to(learnt.dtype)


def window_share(parameters: Mapping[str, Tensor], embedding: PositionEmbedding) -> float:
    """Return how much of an embedding's variance its mean mask unit holds, from 0 to 1.

    It says how much is at stake when the embedding is resized: what is in the mean mask unit, an
    absolute map loses at other sizes. The map must be of whole mask units.
    """
    grid = embedding.grid if isinstance(embedding, Absolute) else PRETRAIN_GRID
    whole = embedding.resize(parameters, grid)
    return float(mean_unit(whole).var(dim=(2, 3)).sum() / whole.var(dim=(2, 3)).sum())
