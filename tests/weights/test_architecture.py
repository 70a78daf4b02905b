from dataclasses import replace

import pytest
import torch

from hiera_mm.errors import CheckpointError
from hiera_mm.network import VARIANTS, HieraTrunk
from hiera_mm.network.position import Absolute, AbsoluteWin, WindowAligned
from hiera_mm.weights.architecture import (
    name_of,
    position_of,
    require_same,
    resolve,
    variants_of,
)
from hiera_mm.weights.families import FAMILIES, interpret

WINDOWED = [arch for arch in VARIANTS if arch.endswith('_windowed')]
HOME = {  # a family in which each architecture is published
    'small_abswin': 'timm',
    'base_abswin': 'timm',
    'hieradet_small': 'timm_sam2',
    **{arch: 'sam2' for arch in VARIANTS if arch.startswith('sam2_')},
}


def trunk_of(arch, **options):
    with torch.device('meta'):
        return HieraTrunk(arch, out_norm_eps=None, **options)


def weights_of(arch, family=None, prefix='', **options):
    trunk = trunk_of(arch, **options)
    family = FAMILIES[family or HOME.get(str(arch), 'release')]
    depths = trunk.variant.depths
    state = {prefix + family.theirs(n, depths): t for n, t in trunk.state_dict().items()}
    mark = {'release': 'norm.bias', 'timm': 'head.fc.bias', 'timm_sam2': 'head.fc.bias'}
    if family.name in mark:
        state[prefix + mark[family.name]] = torch.zeros(1)
    return interpret(state, 'x.pth')


@pytest.mark.parametrize('arch', [arch for arch in VARIANTS if arch not in WINDOWED])
def test_every_architecture_is_told(arch):
    weights = weights_of(arch)
    assert variants_of(weights, 'x.pth') == [arch]
    assert resolve(weights, 'x.pth') == VARIANTS[arch]
    assert require_same(weights, trunk_of(arch), 'x.pth') is None


@pytest.mark.parametrize(
    ('arch', 'asked'),
    [
        ('tiny', 'base'),
        ('base', 'base_plus'),
        ('small', 'small_abswin'),
        ('small_abswin', 'hieradet_small'),
        ('hieradet_small', 'sam2_small'),
    ],
)
def test_another_architecture_is_refused_by_name(arch, asked):
    message = f"x.pth: this is {arch}, and the config says arch='{asked}'.*Set arch='{arch}'"
    with pytest.raises(CheckpointError, match=message):
        require_same(weights_of(arch), trunk_of(asked), 'x.pth')


@pytest.mark.parametrize('pos_embed', ['absolute', 'window_aligned', 'absolute_win'])
@pytest.mark.parametrize('arch', ['tiny', 'sam2_tiny'])
def test_the_position_embedding_is_the_users_choice(arch, pos_embed):
    assert require_same(weights_of(arch), trunk_of(arch, pos_embed=pos_embed), 'x.pth') is None


@pytest.mark.parametrize('asked', WINDOWED)
def test_a_windowed_layout_takes_and_keeps_the_plain_weights(asked):
    plain = asked.removesuffix('_windowed')
    assert f"trained without SAM 2's windows ({plain})" in require_same(
        weights_of(plain), trunk_of(asked), 'x.pth'
    )
    saved = weights_of(asked, 'ours', 'backbone.')
    assert require_same(saved, trunk_of(asked), 'x.pth') is None
    assert variants_of(saved, 'x.pth') == [plain]
    assert name_of(VARIANTS[asked]) == asked


def test_weights_of_one_kind_of_windows_are_taken_by_the_other_with_a_remark():
    assert '(large)' in require_same(weights_of('large'), trunk_of('sam2_large'), 'x.pth')
    assert '(sam2_tiny)' in require_same(weights_of('sam2_tiny'), trunk_of('tiny'), 'x.pth')


def test_an_architecture_of_ones_own_may_have_other_windows():
    fields = dict(embed_dim=96, num_heads=1, depths=(1, 2, 7, 2))
    own = trunk_of(dict(fields, window_sizes=(8, 4, 14, 7), global_blocks=(5, 7, 8)))
    assert 'without SAM 2' in require_same(weights_of('tiny'), own, 'x.pth')
    assert require_same(weights_of('sam2_tiny'), own, 'x.pth') is None
    with pytest.raises(CheckpointError, match=r"this is small.*arch='one of your own'.*depths"):
        require_same(weights_of('small'), own, 'x.pth')


def test_a_network_without_its_last_stages_takes_the_whole_file_and_its_own():
    short = trunk_of('tiny', out_indices=(0, 1))
    assert require_same(weights_of('tiny'), short, 'x.pth') is None
    saved = weights_of('tiny', 'ours', out_indices=(0, 1))
    assert saved.depths == (1, 2)
    assert require_same(saved, short, 'x.pth') is None


def test_auto_asks_where_weights_do_not_tell(small_arch):
    with pytest.raises(CheckpointError, match=r'embed_dim 16, depths .* is no published one'):
        resolve(weights_of(small_arch), 'x.pth')
    # Of ours, the same parameters may have been trained in the release's windows.
    with pytest.raises(CheckpointError, match='sam2_tiny, or a network with other windows'):
        resolve(weights_of('sam2_tiny', 'ours', 'backbone.'), 'x.pth')
    assert resolve(weights_of('sam2_tiny', 'ours'), 'x.pth') == VARIANTS['sam2_tiny']


def test_auto_takes_the_size_of_the_map_from_the_file():
    weights = weights_of('huge', pos_embed=dict(type='absolute', grid=112))
    assert resolve(weights, 'x.pth').pos_embed == WindowAligned((112, 112))


def test_position_embeddings_of_files():
    assert position_of(weights_of('tiny'), 'x.pth') == WindowAligned()
    assert position_of(weights_of('sam2_base_plus'), 'x.pth') == AbsoluteWin((14, 14))
    for arch in ('small_abswin', 'base_abswin'):
        for family in ('timm', 'ours'):  # they stay what they are in files of ours
            weights = weights_of(arch, family)
            assert resolve(weights, 'x.pth') == VARIANTS[arch]
            assert position_of(weights, 'x.pth') == VARIANTS[arch].pos_embed
            assert VARIANTS[arch].pos_embed.antialias


def test_a_name_does_not_depend_on_the_position_embedding():
    assert name_of(replace(VARIANTS['huge'], pos_embed=Absolute((112, 112)))) == 'huge'
    assert name_of(replace(VARIANTS['huge'], num_heads=8)) is None
    assert name_of(VARIANTS['sam2_large']) == 'sam2_large'


@pytest.mark.parametrize(
    'change',
    [
        lambda t: t.pop('pos_embed'),
        lambda t: t.update(pos_embed=torch.zeros(1, 3137, 96)),
        lambda t: t.update(pos_embed=torch.zeros(1, 96, 7, 7)),
        lambda t: t.update(pos_embed_window=torch.zeros(1, 96, 8, 8)),
    ],
)
def test_unknown_position_embeddings_are_refused(change):
    weights = weights_of('tiny')
    change(weights.tensors)
    with pytest.raises(CheckpointError, match='no position embedding that hiera_mm knows'):
        position_of(weights, 'x.pth')
