import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network.position import (
    KINDS,
    Absolute,
    AbsoluteWin,
    AbsoluteWinRecursive,
    kind_of,
    make_position_embedding,
)


def test_the_training_map_is_returned_as_learnt():
    learnt = torch.randn(1, 56 * 56, 4)
    out = Absolute().resize({'pos_embed': learnt}, (56, 56))
    assert torch.equal(out, learnt.reshape(1, 56, 56, 4).permute(0, 3, 1, 2))


@pytest.mark.parametrize('grid', [(8, 8), (16, 72), (64, 40)])
def test_other_maps_are_resized_bicubically(grid):
    learnt = torch.randn(1, 56 * 56, 4, dtype=torch.float64)
    out = Absolute().resize({'pos_embed': learnt}, grid)
    image = learnt.reshape(1, 56, 56, 4).permute(0, 3, 1, 2)
    expected = F.interpolate(image, grid, mode='bicubic', align_corners=False)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_half_precision_is_resized_in_float32():
    learnt = torch.randn(1, 56 * 56, 4)
    half = learnt.to(torch.bfloat16)
    out = Absolute().resize({'pos_embed': half}, (8, 16))
    exact = Absolute().resize({'pos_embed': half.float()}, (8, 16))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.to(torch.bfloat16))


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'absolute'"):
        make_position_embedding('absolut')


def parameters_of(embedding, dim=3):
    return {n: torch.randn(s, dtype=torch.float64) for n, s in embedding.shapes(dim).items()}


grids = st.tuples(st.integers(1, 24), st.integers(1, 24)).map(lambda g: (8 * g[0], 8 * g[1]))


@settings(max_examples=20, deadline=None)
@given(grids, st.sampled_from([(56, 56), (64, 64), (16, 24)]))
def test_the_recursive_form_repeats_its_period(grid, period):
    form = AbsoluteWinRecursive((7, 7), period=period)
    parameters = parameters_of(form)
    out = form.resize(parameters, grid)
    one = AbsoluteWin((7, 7)).resize(parameters, period)
    assert out.shape == (1, 3, *grid)
    for row in range(0, grid[0], period[0]):
        for column in range(0, grid[1], period[1]):
            part = out[..., row : row + period[0], column : column + period[1]]
            assert torch.equal(part, one[..., : part.shape[2], : part.shape[3]])


def test_options_are_given_in_a_dict():
    made = make_position_embedding(dict(type='absolute_win', grid=7, antialias=True))
    assert made == AbsoluteWin((7, 7), antialias=True)
    assert make_position_embedding(made) is made
    assert {kind_of(make_position_embedding(kind)) for kind in KINDS} == set(KINDS)


@pytest.mark.parametrize(
    ('spec', 'error', 'message'),
    [
        (dict(type='absolute_win', gird=7), ValueError, "unknown option 'gird'.*'grid'"),
        (dict(type='absolute_win', grid=(7, 7, 7)), TypeError, 'two whole numbers'),
        (dict(type='absolute_win', grid=0), ValueError, 'at least 1x1'),
        (dict(type='window_aligned', grid=14), ValueError, 'multiples of 8'),
        (dict(type='absolute_win_recursive', period=14), ValueError, 'multiples of 8'),
        (dict(grid=7), TypeError, 'as its type'),
        (7, TypeError, 'pos_embed must be one of'),
    ],
)
def test_wrong_descriptions(spec, error, message):
    with pytest.raises(error, match=message):
        make_position_embedding(spec)
