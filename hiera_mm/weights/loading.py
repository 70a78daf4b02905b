"""Putting weights into a network: everything is checked first, then everything is copied."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import Tensor

from ..errors import CheckpointError, listing
from ..network import HieraTrunk, Variant
from ..network.position import kind_of
from . import architecture
from .families import OUTPUTS
from .files import read_file
from .positions import adapt
from .reading import Weights, interpret, nonfinite
from .sources import locate


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
    """

    tensors: dict[str, Tensor]
    report: Report


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
        CheckpointError: As :func:`read`; also if the weights do not tell their architecture.
    """
    return architecture.resolve(read(source, prefix), source)


def plan(
    network: HieraTrunk,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    allow_nonfinite: bool = False,
) -> Plan:
    """Find out how weights go into a network, without touching it.

    Args:
        network: The network, on any device.
        source: As for :func:`read`.
        prefix: As for :func:`read`.
        allow_nonfinite: Take weights with NaN or infinite numbers in them.

    Returns:
        The tensors to copy, adapted to the network's position embedding, and the report.

    Raises:
        CheckpointError: As :func:`read`; also if the architecture is another one, a parameter is
            missing or has another shape, or a number is not finite.
    """
    weights = read(source, prefix)
    remark = architecture.require_same(weights, network, source)
    remarks = [remark] if remark else []
    tensors = dict(weights.tensors)
    dropped = {reason: list(names) for reason, names in weights.dropped.items()}

    bad = nonfinite(tensors)
    if bad and not allow_nonfinite:
        raise CheckpointError(
            f'{source} has NaN or infinite numbers in {len(bad)} tensors: {listing(bad)}. Such a '
            'network computes nothing; use another file. (allow_nonfinite=True loads it all the '
            'same.)'
        )
    if bad:
        remarks.append(f'NaN or infinite numbers in {listing(bad)}')

    theirs = architecture.position_of(weights, source)
    learnt = {name: tensors.pop(name) for name in theirs.shapes(1)}
    adapted, done = adapt(learnt, theirs, network.position)
    tensors |= adapted
    position = kind_of(network.position)
    remarks.append(f'position embedding {position}: {done or "as in the file"}')

    wanted = dict(network.named_parameters())
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
    _require_shapes(tensors, wanted, source)
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
    return Plan(tensors, report)


def load(
    network: HieraTrunk,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    allow_nonfinite: bool = False,
) -> Report:
    """Load weights of any known family into a network, and log what became of them.

    Args:
        network: The network; nothing of it changes unless all is well.
        source: A path, a URL or a short name; see :func:`~hiera_mm.weights.sources.locate`.
        prefix: What stands before the wanted network's names, where the file has several.
        allow_nonfinite: Take weights with NaN or infinite numbers in them.

    Returns:
        What became of the weights.

    Raises:
        CheckpointError: As :func:`plan`.
    """
    ready = plan(network, source, prefix=prefix, allow_nonfinite=allow_nonfinite)
    network.load_state_dict(ready.tensors, strict=False)
    print_log(str(ready.report), logger='current', level=logging.INFO)
    return ready.report


def _require_shapes(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: object
) -> None:
    patch = 'patch_embed.proj.weight'
    if tensors[patch].shape[1] != wanted[patch].shape[1]:
        raise CheckpointError(
            f'{source} is for images of {tensors[patch].shape[1]} channels, and this network has '
            f'in_channels={wanted[patch].shape[1]}. Nothing was loaded.'
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


def _starts(names: list[str]) -> str:
    """Name what the names belong to, shortly: their first parts."""
    return listing(list(dict.fromkeys(name.split('.')[0] for name in names)), limit=5)
