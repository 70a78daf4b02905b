"""Writing weights in another project's form, so that a backbone trained here can leave again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, ConfigError, listing
from ..network import Variant, resolve_variant
from ..network.position import Absolute, PositionEmbedding
from . import architecture
from .families import FAMILIES, OUTPUTS, Family, Weights
from .loading import adapt_position, read

TARGETS = ('release', 'timm', 'transformers', 'sam2', 'ours')
CONTAINERS = {'release': 'model_state', 'sam2': 'model', 'ours': 'state_dict'}
"""Under which key a project's torch files keep their weights, if not at the top."""
SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')


@dataclass(frozen=True)
class Export:
    """A network in another project's form.

    Attributes:
        family: Whose names are used.
        tensors: Parameters by those names, with the prefix that the project's files have.
        left_out: Our names that have no place in that form.
        remarks: What had to be changed.
    """

    family: Family
    tensors: dict[str, Tensor]
    left_out: list[str]
    remarks: list[str]


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    to: str,
    arch: str | Mapping[str, object] | None = None,
    prefix: str | None = None,
    force: bool = False,
) -> Export:
    """Read weights of any family and write them in another one's form.

    Args:
        source: A path, a URL or a short name.
        out: The file to write: ``.safetensors``, or torch's format for ``.pth``, ``.pt`` and
            ``.bin``. For transformers also a folder, which gets ``config.json`` as well and can be
            given to ``from_pretrained``.
        to: One of :data:`TARGETS`.
        arch: The architecture, where the weights do not tell it.
        prefix: What stands before the wanted network's names, where the file has several.
        force: Overwrite what is there.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the weights cannot be read or expressed in that form, or ``out`` cannot
            be written; then nothing is.
        ConfigError: If ``arch`` is unknown or impossible.
    """
    out = Path(out)
    folder = to == 'transformers' and out.suffix not in SUFFIXES
    if not folder and out.suffix not in SUFFIXES:
        raise CheckpointError(f'{out} must end in {listing(SUFFIXES)}, which says the format.')
    if to not in TARGETS:
        raise CheckpointError(f'cannot write for {to!r}; known are {", ".join(TARGETS)}.')
    if out.exists() and not force:
        raise CheckpointError(f'{out} exists already; choose another name, or give --force.')
    weights = read(source, prefix)
    if arch is None:
        variant = architecture.resolve(weights, source)
    else:
        try:
            variant = resolve_variant(arch)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error
        found = architecture.differences(weights, variant)
        if found:
            raise CheckpointError(f'{source} is not of arch {arch!r}: {", ".join(found)}.')
    _require_expressible(weights, variant, to)
    theirs = architecture.position_of(weights, source)
    family, ours = _target(variant, theirs, to)
    tensors = dict(weights.tensors)
    learnt = {name: tensors.pop(name) for name in theirs.shapes(1)}
    learnt, adapted = adapt_position(learnt, theirs, ours)
    left_out = [n for n in tensors if n.startswith(OUTPUTS) and to != 'ours']
    start = 'image_encoder.trunk.' if to == 'sam2' else ''
    done = Export(
        family=family,
        tensors={
            start + family.theirs(name, weights.depths): tensor.contiguous()
            for name, tensor in {**learnt, **tensors}.items()
            if name not in left_out
        },
        left_out=left_out,
        remarks=[f'position embedding: {adapted}'] if adapted else [],
    )
    files: dict[Path, Any] = {out: done.tensors}
    if folder:
        config = _transformers_config(variant, weights, ours)
        files = {out / 'model.safetensors': done.tensors, out / 'config.json': config}
    elif to in CONTAINERS and out.suffix != '.safetensors':
        files = {out: {CONTAINERS[to]: done.tensors}}
    try:
        _write(files, out.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's and safetensors' own too
        raise CheckpointError(f'{out} cannot be written: {error}. Nothing was.') from error
    return done


def _require_expressible(weights: Weights, variant: Variant, to: str) -> None:
    windowed = architecture.is_windowed(variant)
    reasons = []
    if to == 'release' and windowed:
        reasons.append("SAM 2's windows")
    if to == 'sam2' and not windowed:
        reasons.append('global stages instead of windows')
    if to not in ('timm', 'ours') and variant.layer_scale:
        reasons.append('LayerScale')
    if to not in ('timm', 'ours') and variant.shortcut != 'proj':
        reasons.append('pooled shortcuts')
    others = '--to timm or --to ours'
    if to != 'ours' and any('.rel_pos_' in name for name in weights.tensors):
        reasons.append('relative position in attention')
        others = '--to ours'
    if reasons:
        raise CheckpointError(
            f'this network has {" and ".join(reasons)}, which {FAMILIES[to].title} does not know. '
            f'Use {others}.'
        )


def _target(
    variant: Variant, theirs: PositionEmbedding, to: str
) -> tuple[Family, PositionEmbedding]:
    """Return the names that the other project uses, and its network's position embedding."""
    if architecture.is_windowed(variant) and to in ('timm', 'transformers'):
        return FAMILIES[f'{to}_sam2'], theirs
    if to in ('ours', 'sam2') or isinstance(theirs, Absolute):
        return FAMILIES[to], theirs
    if to == 'timm':  # which resizes the global part with antialiasing in these models
        return FAMILIES[to], replace(theirs, antialias=True)
    return FAMILIES[to], Absolute()


def _transformers_config(
    variant: Variant, weights: Weights, position: PositionEmbedding
) -> dict[str, Any]:
    """Return transformers' description of the network, as its ``config.json`` holds it."""
    heads = [variant.num_heads * 2**stage for stage in range(len(variant.depths))]
    channels = weights.tensors['patch_embed.proj.weight'].shape[1]
    if architecture.is_windowed(variant):
        return dict(
            architectures=['Sam2HieraDetModel'],
            model_type='sam2_hiera_det_model',
            hidden_size=variant.embed_dim,
            embed_dim_per_stage=list(variant.dims),
            num_attention_heads=variant.num_heads,
            num_attention_heads_per_stage=heads,
            blocks_per_stage=list(variant.depths),
            window_size_per_stage=list(variant.window_sizes),
            global_attention_blocks=list(variant.global_blocks),
            window_positional_embedding_background_size=list(position.grid),
            num_channels=channels,
        )
    return dict(
        architectures=['HieraModel'],
        model_type='hiera',
        embed_dim=variant.embed_dim,
        depths=list(variant.depths),
        num_heads=heads,
        image_size=[side * 4 for side in position.grid],
        num_channels=channels,
    )


def _write(files: Mapping[Path, Any], parent: Path) -> None:
    """Write beside the targets and move into place, so that there is never half a file."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix='.converting-') as temporary:
        made = {target: Path(temporary) / target.name for target in files}
        for target, content in files.items():
            if target.suffix == '.safetensors':
                save_file(content, made[target], metadata={'format': 'pt'})
            elif target.suffix == '.json':
                made[target].write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
            else:
                torch.save(content, made[target])
        for target in files:
            target.parent.mkdir(exist_ok=True)
            made[target].replace(target)
