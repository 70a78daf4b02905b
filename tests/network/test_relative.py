import math

import pytest
import torch
import torch.nn.functional as F

from hiera_mm.network import HieraTrunk
from hiera_mm.network.block import Attention
from hiera_mm.network.layout import to_image
from hiera_mm.network.relative import attend_with_relative_position, coordinate

SMALL = dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))


def by_definition(q, k, v, tables, grid):
    """Every pair's bias, one by one."""
    units = math.prod(grid)
    query_side, key_side = (math.isqrt(x.shape[2] // units) for x in (q, k))
    at_query, at_key = (
        [coordinate(axis, grid, side, q.device) for axis in (0, 1)]
        for side in (query_side, key_side)
    )
    step = math.isqrt(k.shape[2] // q.shape[2])
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    for axis in (0, 1):
        side = int(at_key[axis].max()) + 1
        table = F.interpolate(tables[axis].T[None], size=2 * side - 1, mode='linear')[0].T
        for i in range(q.shape[2]):
            for j in range(k.shape[2]):
                distance = int(at_query[axis][i]) * step - int(at_key[axis][j])
                logits[:, :, i, j] += q[:, :, i] @ table[distance + side - 1]
    return logits.softmax(-1) @ v


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize('grid', [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize('pool', [False, True])
def test_it_is_the_definition(grid, pool):
    tokens = 4 * math.prod(grid)
    k, v = random(2, 2, tokens, 5), random(2, 2, tokens, 5)
    q = random(2, 2, tokens // 4 if pool else tokens, 5)
    tables = (random(7, 5), random(7, 5))
    out = attend_with_relative_position(q, k, v, tables, grid)
    torch.testing.assert_close(out, by_definition(q, k, v, tables, grid), rtol=0, atol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize('grid', [(4, 4), (3, 5)])
def test_it_is_that_of_vitdet(grid):
    """Same parameters in transformers' ViTDet, which knows images in row order."""
    transformers = pytest.importorskip('transformers')
    from transformers.models.vitdet.modeling_vitdet import VitDetAttention

    dim, heads = 16, 2
    height, width = 2 * grid[0], 2 * grid[1]
    config = transformers.VitDetConfig(
        hidden_size=dim, num_attention_heads=heads, use_relative_position_embeddings=True
    )
    reference = VitDetAttention(config, input_size=(height, width)).double()
    ours = Attention(dim, dim, heads, window=0, pool=False, rel_pos_side=8).double()
    ours.rel_pos_h = torch.nn.Parameter(random(2 * height - 1, dim // heads))
    ours.rel_pos_w = torch.nn.Parameter(random(2 * width - 1, dim // heads))
    assert not reference.load_state_dict(ours.state_dict()).missing_keys
    x = random(1, grid[0] * grid[1], 4, dim)
    with torch.no_grad():
        expected = reference(to_image(x, grid).permute(0, 2, 3, 1))
        expected = expected[0] if isinstance(expected, tuple) else expected
        out = to_image(ours(x, grid), grid)
        torch.testing.assert_close(out, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    'arch', [SMALL, dict(SMALL, window_sizes=(8, 4, 4, 2), global_blocks=(4,))]
)
def test_it_starts_at_zero_and_learns(arch):
    torch.manual_seed(0)
    plain = HieraTrunk(arch).double()
    biased = HieraTrunk(arch, rel_pos='global').double()
    missing, unexpected = biased.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    global_blocks = [i for i, b in enumerate(plain.blocks) if b.attn.window == 0]
    assert {name.split('.')[1] for name in missing} == {str(i) for i in global_blocks}
    x = random(1, 3, 96, 70)
    for a, b in zip(plain(x), biased(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    sum(f.square().sum() * (i + 1) for i, f in enumerate(biased(x))).backward()
    for name in missing:
        assert biased.get_parameter(name).grad.abs().sum() > 0, name


def test_it_changes_features_at_every_size_of_map():
    trunk = HieraTrunk(SMALL, rel_pos='global').double().eval()
    x = random(1, 3, 256, 64)
    with torch.no_grad():
        before = trunk(x)
        for block in trunk.blocks:
            if block.attn.has_rel_pos:
                block.attn.rel_pos_h.normal_()
        after = trunk(x)
    assert torch.equal(before[1], after[1])
    assert (before[2] - after[2]).abs().max() > 1e-3


def test_tables_have_the_size_of_the_pretraining_map():
    with torch.device('meta'):
        trunk = HieraTrunk('sam2_tiny', rel_pos='global')
    shapes = {n: tuple(p.shape) for n, p in trunk.named_parameters() if 'rel_pos_h' in n}
    assert shapes == {f'blocks.{i}.attn.rel_pos_h': (27, 96) for i in (5, 7, 9)}


def test_compiles_without_a_graph_break():
    trunk = HieraTrunk(SMALL, rel_pos='global')
    compiled = torch.compile(trunk, fullgraph=True, backend='eager', dynamic=False)
    x = torch.randn(1, 3, 64, 96)
    for a, b in zip(compiled(x), trunk(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="rel_pos must be 'global' or None, got 'local'"):
        HieraTrunk(SMALL, rel_pos='local')


@pytest.mark.parametrize('side', [1, 2, 4, 8])
def test_coordinates_are_places_on_the_map(side):
    for axis in (0, 1):
        places = coordinate(axis, (2, 3), side, torch.device('cpu'))
        image = to_image(places.reshape(1, 6, side * side, 1), (2, 3))[0, 0]
        expected = torch.meshgrid(*map(torch.arange, image.shape), indexing='ij')[axis]
        assert torch.equal(image, expected)


@pytest.mark.parametrize('grid', [(1, 1), (2, 3), (5, 4)])
def test_the_fused_kernels_take_its_channels(grid, monkeypatch):
    widths = []

    def attend(q, k, v, **options):
        widths.append((q.shape[-1], k.shape[-1], v.shape[-1]))
        return v[..., : q.shape[2], :]

    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    tokens = 4 * math.prod(grid)
    x = random(1, 1, tokens, 12)
    attend_with_relative_position(x, x, x, (random(7, 12), random(7, 12)), grid)
    assert len(set(widths[0])) == 1
    assert widths[0][0] % 8 == 0
