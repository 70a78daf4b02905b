import pytest
import torch

from hiera_mm.network import VARIANTS, HieraTrunk
from hiera_mm.weights.families import FAMILIES

DEPTHS = (1, 2, 7, 2)
EVERY_NAME = [
    'pos_embed',
    'pos_embed_window',
    'patch_embed.proj.weight',
    'patch_embed.proj.bias',
    *(f'out_norms.{i}.weight' for i in range(4)),
]


def names():
    found = set(EVERY_NAME)
    for arch in ('tiny', 'sam2_tiny'):
        with torch.device('meta'):
            found |= set(HieraTrunk(arch).state_dict())
    return sorted(found | {f'blocks.{i}.ls{j}.gamma' for i in range(12) for j in (1, 2)})


@pytest.mark.parametrize('family', FAMILIES.values(), ids=lambda f: f.name)
def test_every_name_comes_back(family):
    there = {name: family.theirs(name, DEPTHS) for name in names()}
    assert len(set(there.values())) == len(there)
    assert {theirs: family.ours(theirs, DEPTHS) for theirs in there.values()} == {
        theirs: name for name, theirs in there.items()
    }


def test_names_of_each_family():
    def block(name, kind='mlp.fc1.weight'):
        return FAMILIES[name].theirs(f'blocks.3.{kind}', DEPTHS)

    assert block('release') == 'blocks.3.mlp.fc1.weight'
    assert block('sam2') == 'blocks.3.mlp.layers.0.weight'
    assert block('transformers_sam2') == 'blocks.3.mlp.proj_in.weight'
    assert block('transformers') == 'encoder.stages.2.layers.0.mlp.fc1.weight'
    assert block('transformers', 'norm2.bias') == 'encoder.stages.2.layers.0.layernorm_after.bias'
    assert FAMILIES['timm'].theirs('pos_embed_window', DEPTHS) == 'pos_embed_win'
    assert FAMILIES['timm_sam2'].theirs('pos_embed_window', DEPTHS) == 'pos_embed_window'
    norm = FAMILIES['transformers'].theirs('out_norms.0.weight', DEPTHS)
    assert norm == 'hidden_states_norms.stage1.weight'


@pytest.mark.parametrize(
    ('family', 'name'),
    [
        ('sam2', 'blocks.0.mlp.fc1.weight'),
        ('sam2', 'blocks.0.attn.rel_pos_h'),
        ('release', 'blocks.0.mlp.layers.0.weight'),
        ('release', 'blocks.0.norm3.weight'),
        ('release', 'cls_token'),
        ('transformers', 'blocks.0.norm1.weight'),
        ('transformers', 'encoder.stages.0.layers.0.norm1.weight'),
        ('transformers_sam2', 'patch_embed.proj.weight.scale'),
    ],
)
def test_names_of_another_network_are_not_taken(family, name):
    assert FAMILIES[family].ours(name, DEPTHS) is None


def test_reasons_to_drop():
    release = FAMILIES['release']
    assert release.reason_to_drop('head.projection.weight') == 'classifier'
    for name in ('decoder_blocks.0.norm1.weight', 'mask_token', 'multi_scale_fusion_heads.0.bias'):
        assert release.reason_to_drop(name) == 'decoder of the masked autoencoder'
    assert release.reason_to_drop('blocks.0.norm1.weight') is None
    assert 'final norm' in FAMILIES['timm'].reason_to_drop('head.norm.weight')


def test_only_sam2_families_have_windows():
    windowed = {f.name for f in FAMILIES.values() if f.windowed}
    assert windowed == {'sam2', 'timm_sam2', 'transformers_sam2'}
    assert all(0 not in VARIANTS[a].window_sizes for a in VARIANTS if a.startswith('sam2'))
