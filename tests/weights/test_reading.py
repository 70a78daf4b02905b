import pytest
import torch

from hiera_mm.errors import CheckpointError
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.families import FAMILIES
from hiera_mm.weights.reading import interpret, nonfinite

DEPTHS = (1, 2, 2, 1)


@pytest.fixture
def trunk(small_arch):
    return HieraTrunk(small_arch, out_norm_eps=None)


def state(trunk, family, prefix=''):
    return {
        prefix + FAMILIES[family].theirs(name, DEPTHS): value
        for name, value in trunk.state_dict().items()
    }


HEADS = {
    'release': ['norm.weight', 'head.projection.bias', 'mask_token'],
    'timm': ['head.norm.weight', 'head.fc.bias'],
    'transformers': ['pooler.layernorm.weight'],
}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('container', [None, 'state_dict', 'model_state', 'model'])
@pytest.mark.parametrize('prefix', ['', 'module.backbone.', 'image_encoder.trunk.'])
def test_every_family_in_every_place(trunk, family, container, prefix):
    theirs = state(trunk, family, prefix)
    heads = [prefix + name for name in HEADS.get(family, [])]
    theirs |= dict.fromkeys(heads, torch.zeros(1))
    if prefix:
        theirs['neck.conv.weight'] = torch.zeros(1)
    content = {container: theirs, 'epoch': 3} if container else theirs
    found = interpret(content, 'x.pth')
    # Where nothing tells them apart, the names are the same as ours.
    assert found.family.name in (family, 'ours')
    assert (found.family.name == 'ours') == (family in ('ours', 'timm_sam2'))
    assert found.prefix == prefix
    assert found.depths == DEPTHS
    assert found.tensors.keys() == trunk.state_dict().keys()
    assert all(torch.equal(found.tensors[n], t) for n, t in trunk.state_dict().items())
    dropped = {name for names in found.dropped.values() for name in names}
    assert dropped == theirs.keys() - state(trunk, family, prefix).keys()
    if prefix:
        assert found.dropped['other parts of the model'] == ['neck.conv.weight']


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
    with pytest.raises(CheckpointError, match=r"no Hiera under the prefix 'backbone\.'"):
        interpret(student | teacher, 'x.pth', 'backbone')


def test_the_empty_prefix_is_one(trunk):
    both = state(trunk, 'ours') | state(trunk, 'ours', 'teacher.')
    with pytest.raises(CheckpointError, match='names that no Hiera of that family has'):
        interpret(both, 'x.pth', '')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s | {'cls_token': torch.ones(1)}, r'names that no Hiera.*\(1\): cls_token'),
        (lambda s: s | {'blocks.0.attn.bias': torch.ones(1)}, r'blocks\.0\.attn\.bias'),
        (
            lambda s: (
                s | {'blocks.0.mlp.layers.0.weight': torch.ones(1), 'norm.bias': torch.ones(1)}
            ),
            r'mixes names of the release .* and SAM 2',
        ),
        (
            lambda s: s | {'head.fc.bias': torch.ones(1), 'head.projection.bias': torch.ones(1)},
            'mixes names of the release .* and timm',
        ),
        (
            lambda s: s | {'encoder.stages.0.layers.0.attn.qkv.bias': torch.ones(1)},
            r'Some are names of transformers \(HieraModel\): were two files merged',
        ),
        (
            lambda s: {n: v for n, v in s.items() if not n.startswith('blocks.2.')},
            r'is incomplete: the blocks it has are \(0,\), \(1,\), \(3,\)',
        ),
        (
            lambda s: {n: v for n, v in s.items() if not n.startswith('blocks.')},
            'is incomplete: the blocks it has are none',
        ),
        (
            lambda s: s | {'patch_embed.proj.weight': torch.ones(16, 3, 3, 7, 7)},
            'a Hiera for video',
        ),
        (
            lambda s: s | {'pos_embed': s['pos_embed'].to(torch.int8)},
            r'pos_embed is of type .*int8',
        ),
        (
            lambda s: {f'x{n}': v for n, v in s.items()},
            r'holds no Hiera: a parameter named .*patch_embed\.proj\.weight.*names begin with xpos',
        ),
        (lambda s: {'state_dict': {}, 'meta': 'x'}, 'no weights.*found state_dict, meta'),
        (lambda s: {}, 'no weights.*found nothing'),
    ],
)
def test_what_is_no_hiera_is_refused(trunk, change, message):
    with pytest.raises(CheckpointError, match=message):
        interpret(change(state(trunk, 'ours')), 'x.pth')


def test_a_swin_transformer_is_no_hiera():
    from mmdet.models import SwinTransformer

    swin = SwinTransformer(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    with pytest.raises(CheckpointError, match='is incomplete: the blocks it has are none'):
        interpret({'state_dict': swin.state_dict()}, 'swin.pth')


def test_nonfinite():
    tensors = {
        'a': torch.ones(2),
        'b': torch.tensor([1, torch.nan]),
        'c': torch.tensor([torch.inf]),
    }
    assert nonfinite(tensors) == ['b', 'c']
