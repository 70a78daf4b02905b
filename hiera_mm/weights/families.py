"""The dialects in which Hiera's weights are published, as data.

A family has its own names for the same parameters, says which other names it uses for parts that a
backbone has no use for, and bears marks by which it is told from the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
        relative_position: Whether its networks may have relative position in attention.
    """

    name: str
    title: str
    stem: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    block: str = 'blocks.{block}'
    dropped: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ()
    windowed: bool | None = False
    relative_position: bool = False

    @property
    def anchor(self) -> str:
        """Name of the parameter that every network of the family has, and no other module."""
        return f'{self.stem.get("patch_embed.proj", "patch_embed.proj")}.weight'

    def theirs(self, name: str, depths: Sequence[int]) -> str:
        """Translate one of our names.

        Args:
            name: Our name of a parameter.
            depths: Blocks of each stage.
        """
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

    def ours(self, name: str, depths: Sequence[int]) -> str | None:
        """Translate one of the family's names into ours; None if it is not one of its network.

        Args:
            name: The family's name of a parameter, without a prefix.
            depths: Blocks of each stage.
        """
        found = self._in_block(name)
        if found is None:
            ours = _replace_start(name, {theirs: ours for ours, theirs in self.stem.items()})
            return ours if _OUTSIDE_BLOCKS.fullmatch(ours) else None
        place, path, kind = found
        block = place[0] if len(place) == 1 else sum(depths[: place[0]]) + place[1]
        layer = {theirs: ours for ours, theirs in self.layers.items()}.get(path, path)
        if kind.startswith('rel_pos'):
            known = layer == 'attn' and self.relative_position
        else:
            known = layer in _LAYERS
        if not known or path in self.layers:  # unknown, or ours instead of theirs
            return None
        return f'blocks.{block}.{layer}.{kind}'

    def block_place(self, name: str, parameter: str) -> tuple[int, ...] | None:
        """Return the place of the block that a name belongs to, or None.

        Args:
            name: The family's name of a parameter, without a prefix.
            parameter: Which parameter of the block it must be, under the family's name.

        Returns:
            ``(block,)`` or ``(stage, layer)``, as the family counts.
        """
        found = self._in_block(name)
        return found[0] if found and f'{found[1]}.{found[2]}' == parameter else None

    def reason_to_drop(self, name: str) -> str | None:
        """Return why the backbone has no use for a parameter of the family, or None."""
        for pattern, reason in self.dropped.items():
            if re.match(pattern, name):
                return reason
        return None

    def _in_block(self, name: str) -> tuple[tuple[int, ...], str, str] | None:
        """Split the name of a block's parameter into place, module and kind."""
        place = re.sub(r'\\\{\w+\\\}', r'(\\d+)', re.escape(self.block))
        found = re.fullmatch(rf'{place}\.(.+)\.(weight|bias|gamma|rel_pos_h|rel_pos_w)', name)
        if found is None:
            return None
        *numbers, path, kind = found.groups()
        return tuple(int(number) for number in numbers), path, kind


_LAYERS = (
    'norm1', 'attn.qkv', 'attn.proj', 'proj', 'ls1', 'norm2', 'mlp.fc1', 'mlp.fc2', 'ls2',
)  # fmt: skip
_OUTSIDE_BLOCKS = re.compile(
    r'pos_embed|pos_embed_window|patch_embed\.proj\.(weight|bias)|out_norms\.[0-3]\.(weight|bias)'
    r'|outputs\.projections\.\d+\.(weight|bias)'
)
OUTPUTS = ('out_norms.', 'outputs.')
"""Beginnings of the names of what no published Hiera has: parts between it and what reads it."""


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
            relative_position=True,
        ),
    )
}
"""The families by name."""
