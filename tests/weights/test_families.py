import pytest
import torch

from hiera_mm.errors import CheckpointError
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.families import FAMILIES, interpret

DEPTHS = (1, 2, 2, 1)


@pytest.fixture
def trunk(small_arch):
    return HieraTrunk(small_arch, out_norm_eps=None)


def state(trunk, family, prefix=''):
    return {
        prefix + FAMILIES[family].theirs(name, DEPTHS): value
        for name, value in trunk.state_dict().items()
    }


@pytest.mark.parametrize('family', FAMILIES.values(), ids=lambda f: f.name)
def test_every_name_comes_back(family, trunk):
    names = {
        *trunk.state_dict(),
        'pos_embed_window',
        *(f'out_norms.{i}.weight' for i in range(4)),
        *(f'blocks.{i}.ls{j}.gamma' for i in range(sum(DEPTHS)) for j in (1, 2)),
    }
    there = {name: family.theirs(name, DEPTHS) for name in names}
    assert len(set(there.values())) == len(there)
    assert {theirs: family.ours(theirs, DEPTHS) for theirs in there.values()} == {
        theirs: name for name, theirs in there.items()
    }


@pytest.mark.parametrize(
    ('family', 'theirs', 'ours'),
    [
        ('release', 'blocks.3.mlp.fc1.weight', 'blocks.3.mlp.fc1.weight'),
        ('sam2', 'blocks.3.mlp.layers.0.weight', 'blocks.3.mlp.fc1.weight'),
        ('transformers_sam2', 'blocks.3.mlp.proj_in.weight', 'blocks.3.mlp.fc1.weight'),
        ('transformers', 'encoder.stages.2.layers.0.mlp.fc1.bias', 'blocks.3.mlp.fc1.bias'),
        ('transformers', 'hidden_states_norms.stage1.weight', 'out_norms.0.weight'),
        ('timm', 'pos_embed_win', 'pos_embed_window'),
        ('timm_sam2', 'pos_embed_window', 'pos_embed_window'),
        # Names of another network are not taken.
        ('sam2', 'blocks.0.mlp.fc1.weight', None),
        ('release', 'blocks.0.mlp.layers.0.weight', None),
        ('release', 'blocks.0.norm3.weight', None),
        ('release', 'cls_token', None),
        ('transformers', 'blocks.0.norm1.weight', None),
        ('transformers', 'encoder.stages.0.layers.0.norm1.weight', None),
        ('transformers_sam2', 'patch_embed.proj.weight.scale', None),
    ],
)
def test_names_of_each_family(family, theirs, ours):
    assert FAMILIES[family].ours(theirs, DEPTHS) == ours


HEADS = {
    'release': [
        'norm.weight', 'head.projection.bias', 'mask_token', 'decoder_blocks.0.norm1.weight',
        'multi_scale_fusion_heads.0.bias',
    ],
    'timm': ['head.norm.weight', 'head.fc.bias'],
    'transformers': ['pooler.layernorm.weight'],
}  # fmt: skip


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(
    ('container', 'prefix'),
    [
        (None, ''),
        ('state_dict', 'module.backbone.'),
        ('model_state', ''),
        ('model', 'image_encoder.trunk.'),
    ],
)
def test_every_family_in_every_place(trunk, family, container, prefix):
    theirs = state(trunk, family, prefix)
    heads = [prefix + name for name in HEADS.get(family, [])]
    theirs |= dict.fromkeys(heads, torch.zeros(1))
    if prefix:
        theirs['neck.conv.weight'] = torch.zeros(1)
    content = {container: theirs, 'epoch': 3} if container else theirs
    found = interpret(content, 'x.pth')
    # Where nothing tells them apart, the names are the same as ours.
    assert found.family.name == ('ours' if family == 'timm_sam2' else family)
    assert found.prefix == prefix
    assert found.depths == DEPTHS
    assert found.tensors.keys() == trunk.state_dict().keys()
    assert all(torch.equal(found.tensors[n], t) for n, t in trunk.state_dict().items())
    dropped = {name for names in found.dropped.values() for name in names}
    assert dropped == theirs.keys() - state(trunk, family, prefix).keys()
    if prefix:
        assert found.dropped['other parts of the model'] == ['neck.conv.weight']
    if family == 'release':
        assert found.dropped['classifier'] == [f'{prefix}head.projection.bias']
        assert len(found.dropped['decoder of the masked autoencoder']) == 3


def test_averaged_weights_are_preferred_where_mmengine_keeps_them(trunk):
    averaged, last = state(trunk, 'ours', 'backbone.'), state(trunk, 'ours', 'module.backbone.')
    last = {name: value + 1 for name, value in last.items()} | {'steps': torch.tensor(7)}
    both = interpret({'state_dict': averaged, 'ema_state_dict': last}, 'x.pth')
    assert torch.equal(both.tensors['pos_embed'], trunk.pos_embed)
    alone = interpret({'ema_state_dict': last}, 'x.pth')
    assert torch.equal(alone.tensors['pos_embed'], trunk.pos_embed + 1)
    assert alone.dropped['other parts of the model'] == ['steps']


def test_two_networks_need_a_prefix(trunk):
    student, teacher = state(trunk, 'ours', 'student.backbone.'), state(trunk, 'ours', 'teacher.')
    teacher = {name: value + 1 for name, value in teacher.items()}
    with pytest.raises(CheckpointError, match=r"2 networks.*'student\.backbone\.', 'teacher\.'"):
        interpret(student | teacher, 'x.pth')
    for prefix in ('teacher', 'teacher.'):
        found = interpret(student | teacher, 'x.pth', prefix)
        assert torch.equal(found.tensors['pos_embed'], trunk.pos_embed + 1)
    with pytest.raises(CheckpointError, match="no Hiera under the prefix 'backbone'"):
        interpret(student | teacher, 'x.pth', 'backbone')
    # The empty prefix is one, too.
    with pytest.raises(CheckpointError, match='names that no Hiera of that family has'):
        interpret(state(trunk, 'ours') | teacher, 'x.pth', '')


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ('more', 'without', 'message'),
    [
        ({'cls_token': ONE}, '-', r'names that no Hiera.*\(1\): cls_token'),
        ({'blocks.0.attn.bias': ONE}, '-', r'blocks\.0\.attn\.bias'),
        (
            {'blocks.0.mlp.layers.0.weight': ONE, 'norm.bias': ONE}, '-',
            r'weights of the release .* \(1\): blocks\.0\.mlp\.layers.*two files merged',
        ),
        (
            {'head.fc.bias': ONE, 'head.projection.bias': ONE}, '-',
            r'weights of the release .* \(1\): head\.fc\.bias.*two files merged',
        ),
        ({}, 'blocks.2.', r'is incomplete: the blocks it has are \(0,\), \(1,\), \(3,\)'),
        ({}, 'blocks.', 'is incomplete: the blocks it has are none'),
        ({'patch_embed.proj.weight': torch.ones(16, 3, 3, 7, 7)}, '-', 'a Hiera for video'),
        ({'pos_embed': ONE.to(torch.int8)}, '-', r'pos_embed is of type .*int8'),
        ({'state_dict': {}, 'meta': 'x'}, '', 'no weights.*found state_dict, meta'),
        ({}, '', 'no weights.*found nothing'),
    ],
)  # fmt: skip
def test_what_is_no_whole_hiera_is_refused(trunk, more, without, message):
    content = {n: v for n, v in state(trunk, 'ours').items() if not n.startswith(without)} | more
    with pytest.raises(CheckpointError, match=message):
        interpret(content, 'x.pth')


def test_names_after_no_whole_prefix_are_refused(trunk):
    message = r'not a Hiera\. .*patch_embed\.proj\.weight.*names begin with xpos'
    with pytest.raises(CheckpointError, match=message):
        interpret(state(trunk, 'ours', 'x'), 'x.pth')


def torchvision_swin(torchvision):
    return torchvision.models.SwinTransformer([4, 4], 24, [1, 1, 1, 1], [1, 1, 1, 1], [7, 7])


OTHERS = [
    ('timm', lambda m: m.create_model('swin_tiny_patch4_window7_224', embed_dim=24), 'a Swin'),
    ('timm', lambda m: m.create_model('swinv2_tiny_window8_256', embed_dim=24), 'a Swin'),
    ('timm', lambda m: m.create_model('vit_tiny_patch16_224', embed_dim=48), 'a Vision Tr'),
    ('timm', lambda m: m.create_model('resnet10t'), 'a ResNet'),
    # Overlapping patches, as a Hiera has them.
    ('timm', lambda m: m.create_model('mvitv2_tiny'), ''),
    ('timm', lambda m: m.create_model('pvt_v2_b0'), ''),
    ('torchvision', torchvision_swin, 'a Swin'),
    ('torchvision', lambda m: m.models.resnet18(), 'a ResNet'),
    ('torchvision', lambda m: m.models.VisionTransformer(32, 16, 1, 1, 24, 24), 'a Vision Tr'),
]


@pytest.mark.parametrize(('project', 'make', 'title'), OTHERS)
def test_another_network_is_told_from_a_damaged_hiera(project, make, title):
    with torch.device('meta'):
        model = make(pytest.importorskip(project))
    message = f'^x.pth: this is not a Hiera, but looks like {title}' if title else 'not a Hiera'
    for prefix in ('', 'backbone.'):
        content = {prefix + name: value for name, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            interpret({'state_dict': content, 'meta': {}}, 'x.pth')
