"""How each project names Hiera's parameters, and a file's parameters brought under our names.

A family is the names of one project. It says which other names it uses for parts that a backbone
has no use for, and bears marks by which it is told from the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, listing

OUTPUTS = ('out_norms.', 'outputs.')
"""Beginnings of the names of what no published Hiera has: parts between it and what reads it."""

CONTAINERS = ('state_dict', 'model_state', 'model', 'ema_state_dict', 'state_dict_ema')
"""Where a file keeps its weights if not at the top: mmengine, the release, SAM 2, and averages.

mmengine's EMA hook puts the averaged weights into ``state_dict`` and the last ones of training
into ``ema_state_dict``, so the order is right for it as well.
"""

_OURS = re.compile(
    r'pos_embed|pos_embed_window|((patch_embed\.proj|out_norms\.[0-3]|outputs\.projections\.\d+'
    r'|blocks\.\d+\.(norm1|attn\.qkv|attn\.proj|proj|ls1|norm2|mlp\.fc1|mlp\.fc2|ls2))'
    r'\.(weight|bias|gamma))|blocks\.\d+\.attn\.rel_pos_[hw]'
)
_FINAL_NORM = 'final norm, part of the classifier'
_CLASSIFIER = 'classifier'
_DECODER = 'decoder of the masked autoencoder'


@dataclass(frozen=True)
class Family:
    """How one project names Hiera's parameters.

    Attributes:
        name: The family's name, as in ``tools/convert_weights.py --to``.
        title: What it is called in messages.
        stem: Its names of modules and parameters outside the blocks, by ours, where they differ.
        layers: Its names of modules inside a block, by ours, where they differ.
        block: Its name of a block; ``{block}`` counts over all stages, ``{layer}`` inside
            ``{stage}``.
        dropped: Reasons why a backbone has no use for a parameter, by a pattern of its name.
        marks: Patterns of names that only this family has.
        windowed: Whether its networks have SAM 2's windows; None where both kinds occur.
    """

    name: str
    title: str
    stem: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    block: str = 'blocks.{block}'
    dropped: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ()
    windowed: bool | None = False

    @property
    def anchor(self) -> str:
        """Name of the parameter that every network of the family has, and no other module."""
        return f'{self.stem.get("patch_embed.proj", "patch_embed.proj")}.weight'

    def theirs(self, name: str, depths: Sequence[int]) -> str:
        """Translate one of our names; ``depths`` are the blocks of each stage."""
        found = re.fullmatch(r'blocks\.(\d+)\.(.+)\.(\w+)', name)
        if found is None:
            return _replace_start(name, self.stem)
        block = int(found[1])
        stage, layer = 0, block
        while layer >= depths[stage]:
            layer -= depths[stage]
            stage += 1
        place = self.block.format(block=block, stage=stage, layer=layer)
        return f'{place}.{self.layers.get(found[2], found[2])}.{found[3]}'

    def ours(self, name: str, depths: Sequence[int] = ()) -> str | None:
        """Translate one of the family's names, without a prefix; None if no Hiera has it.

        Without ``depths``, the number of the block may be wrong.
        """
        found = self.in_block(name)
        if found is None:
            ours = _replace_start(name, {theirs: ours for ours, theirs in self.stem.items()})
            known = not ours.startswith('blocks.')
        else:
            place, path, kind = found
            block = place[0] if len(place) == 1 else sum(depths[: place[0]]) + place[1]
            layer = {theirs: ours for ours, theirs in self.layers.items()}.get(path, path)
            ours = f'blocks.{block}.{layer}.{kind}'
            known = path not in self.layers  # which would be our name instead of theirs
        return ours if known and _OURS.fullmatch(ours) else None

    def in_block(self, name: str) -> tuple[tuple[int, ...], str, str] | None:
        """Split a name into place, ``(block,)`` or ``(stage, layer)``, module and kind."""
        place = re.sub(r'\\\{\w+\\\}', r'(\\d+)', re.escape(self.block))
        found = re.fullmatch(rf'{place}\.(.+)\.(\w+)', name)
        if found is None:
            return None
        *numbers, path, kind = found.groups()
        return tuple(int(number) for number in numbers), path, kind

    def reason_to_drop(self, name: str) -> str | None:
        """Return why the backbone has no use for a parameter of the family, or None."""
        return next((why for pattern, why in self.dropped.items() if re.match(pattern, name)), None)


def _replace_start(name: str, renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        if name == old or name.startswith(f'{old}.'):
            return new + name[len(old) :]
    return name


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name='release',
            title='the release (facebookresearch/hiera)',
            dropped={
                r'norm\.': _FINAL_NORM,
                r'head\.projection\.': _CLASSIFIER,
                r'decoder_|mask_token$|multi_scale_fusion_heads\.|encoder_norm\.': _DECODER,
            },
            marks=(r'norm\.', r'head\.projection\.', r'mask_token$', r'encoder_norm\.'),
        ),
        Family(
            name='timm',
            title='timm (hiera_*)',
            stem={'pos_embed_window': 'pos_embed_win'},
            dropped={r'head\.norm\.': _FINAL_NORM, r'head\.fc\.': _CLASSIFIER},
            marks=(r'head\.(norm|fc)\.', r'pos_embed_win$'),
        ),
        Family(
            name='timm_sam2',
            title='timm (sam2_hiera_*, hieradet_*)',
            dropped={r'head\.norm\.': _FINAL_NORM, r'head\.fc\.': _CLASSIFIER},
            windowed=True,
        ),
        Family(
            name='transformers',
            title='transformers (HieraModel)',
            stem={
                'patch_embed.proj': 'embeddings.patch_embeddings.projection',
                'pos_embed': 'embeddings.position_embeddings',
                **{f'out_norms.{i}': f'hidden_states_norms.stage{i + 1}' for i in range(4)},
            },
            layers={'norm1': 'layernorm_before', 'norm2': 'layernorm_after'},
            block='encoder.stages.{stage}.layers.{layer}',
            dropped={r'pooler\.layernorm\.': _FINAL_NORM},
            marks=(r'embeddings\.', r'encoder\.stages\.'),
        ),
        Family(
            name='sam2',
            title='SAM 2 (facebookresearch/sam2)',
            layers={'mlp.fc1': 'mlp.layers.0', 'mlp.fc2': 'mlp.layers.1'},
            marks=(r'blocks\.\d+\.mlp\.layers\.',),
            windowed=True,
        ),
        Family(
            name='transformers_sam2',
            title='transformers (Sam2HieraDetModel)',
            stem={'patch_embed.proj': 'patch_embed.projection'},
            layers={
                'norm1': 'layer_norm1',
                'norm2': 'layer_norm2',
                'mlp.fc1': 'mlp.proj_in',
                'mlp.fc2': 'mlp.proj_out',
            },
            marks=(r'patch_embed\.projection\.', r'blocks\.\d+\.(layer_norm|mlp\.proj_)'),
            windowed=True,
        ),
        Family(
            name='ours',
            title='hiera_mm',
            marks=(r'out_norms\.', r'outputs\.', r'blocks\.\d+\.attn\.rel_pos_'),
            windowed=None,
        ),
    )
}
"""The families by name."""

_OTHER_NETWORKS = {
    r'\b(cls_token|class_token)$': 'a Vision Transformer (ViT)',
    r'relative_position_bias_table$|\.cpb_mlp\.': 'a Swin Transformer',
    r'\blayer1\.0\.conv1\.': 'a ResNet',
}


@dataclass(frozen=True)
class Weights:
    """A Hiera out of a file.

    Attributes:
        family: Whose names the file uses.
        tensors: Parameters by our names.
        dropped: Names that the file has and a backbone has no use for, by the reason.
        rest: What has these names.
        prefix: What stood before the family's names, e.g. ``'image_encoder.trunk.'``.
        depths: Blocks of each stage in the file.
    """

    family: Family
    tensors: dict[str, Tensor]
    dropped: dict[str, list[str]]
    rest: dict[str, Tensor]
    prefix: str
    depths: tuple[int, ...]


def interpret(content: Mapping[str, Any], path: object, prefix: str | None = None) -> Weights:
    """Find the Hiera in what a file holds.

    Args:
        content: What :func:`~hiera_mm.weights.reading.read_file` returned.
        path: Where it comes from, for messages.
        prefix: What stands before the wanted network's names, where the file has several.

    Raises:
        CheckpointError: If there is no Hiera in the file, or more than one, if it has names that
            its family does not know, or if blocks are missing.
    """
    state = _state_of(content, path)
    family, prefix = _recognise(state, path, prefix)
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items()
              if name.startswith(prefix)}  # fmt: skip
    patch = inside[family.anchor]
    if patch.ndim != 4:
        raise CheckpointError(
            f'{path} holds a Hiera for video (its patch embedding has {patch.ndim - 2} dimensions '
            'of space and time); hiera_mm has Hieras for images.'
        )
    dropped: dict[str, list[str]] = {}
    known, unknown = [], []
    for name in state:
        bare = name.removeprefix(prefix)
        if not name.startswith(prefix):
            dropped.setdefault('other parts of the model', []).append(name)
        elif family.ours(bare):
            known.append(bare)
        elif reason := family.reason_to_drop(bare):
            dropped.setdefault(reason, []).append(name)
        else:
            unknown.append(name)
    if len(unknown) > len(known):
        raise _not_a_hiera(state, path)
    if unknown:
        raise CheckpointError(
            f'{path} looks like weights of {family.title}, but has names that no Hiera of that '
            f'family has ({len(unknown)}): {listing(unknown)}. Were two files merged? Nothing was '
            'loaded.'
        )
    depths = _depths(inside, family, path)
    tensors = {family.ours(name, depths): inside[name] for name in known}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f'{path}: {name} is of type {tensor.dtype}, and weights must be floating-point '
                'numbers. Quantised files cannot be read; use the original one.'
            )
    rest = {name: state[name] for names in dropped.values() for name in names}
    return Weights(family, tensors, dropped, rest, prefix, depths)


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


def _recognise(state: Mapping[str, Tensor], path: object, prefix: str | None) -> tuple[Family, str]:
    """Return the family, and the prefix of its names."""
    found: dict[str, str] = {}
    for name, tensor in state.items():
        for anchor in {family.anchor for family in FAMILIES.values()}:
            # Other networks have a patch embedding too, but seldom one of overlapping patches.
            if f'.{name}'.endswith(f'.{anchor}') and tensor.shape[-2:] == (7, 7):
                found[name.removesuffix(anchor)] = anchor
    if prefix is not None:
        wanted = f'{prefix.rstrip(".")}.' if prefix else ''
        found = {p: anchor for p, anchor in found.items() if p == wanted}
    if not found:
        raise _not_a_hiera(state, path, prefix)
    if len(found) > 1:
        raise CheckpointError(
            f'{path} holds {len(found)} networks that may be a Hiera, under the prefixes '
            f'{listing([repr(p) for p in found])}. Say which one is meant with prefix=...'
        )
    prefix, anchor = next(iter(found.items()))
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    for family in FAMILIES.values():
        if family.anchor == anchor and any(re.match(m, n) for m in family.marks for n in inside):
            if family.name == 'timm' and 'pos_embed_window' in inside:
                family = FAMILIES['timm_sam2']
            return family, prefix
    return FAMILIES['ours'], prefix


def _not_a_hiera(
    state: Mapping[str, Tensor], path: object, prefix: str | None = None
) -> CheckpointError:
    """Return an error that says what else a file may hold."""
    starts = list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in state))
    anchors = sorted({family.anchor for family in FAMILIES.values()})
    text = f'{path}: this is not a Hiera'
    if prefix:
        text = f'{path} holds no Hiera under the prefix {prefix!r}'
    for pattern, title in _OTHER_NETWORKS.items():
        if any(re.search(pattern, name) for name in state):
            text += f', but looks like {title}'
            break
    return CheckpointError(
        f'{text}. A 7x7 convolution named {" or ".join(anchors)} and the blocks of a Hiera were '
        f'expected, and its names begin with {listing(starts)}.'
    )


def _depths(inside: Mapping[str, Tensor], family: Family, path: object) -> tuple[int, ...]:
    """Count the blocks of each stage, which show by their channels."""
    dim = inside[family.anchor].shape[0]
    stages: dict[tuple[int, ...], int] = {}
    for name, tensor in inside.items():
        place, *rest = family.in_block(name) or [None]
        if rest == ['attn.proj', 'weight'] and tensor.ndim == 2:
            stages[place] = (tensor.shape[0] // dim).bit_length() - 1
    places, found = sorted(stages), list(stages.values())
    depths = tuple(found.count(stage) for stage in range(max(found, default=-1) + 1))
    expected: list[tuple[int, ...]] = [(block,) for block in range(sum(depths))]
    if places and len(places[0]) == 2:
        expected = [(stage, layer) for stage, depth in enumerate(depths) for layer in range(depth)]
    if not places or 0 in depths or places != expected:
        raise CheckpointError(
            f'{path} is incomplete: the blocks it has are {listing(places) or "none"}, and '
            'consecutive ones in every stage were expected. Download or save it again.'
        )
    return depths
