"""Every position embedding and every layout of windows, at image sizes drawn at random."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hiera_mm.network import HieraTrunk
from hiera_mm.network.position import (
    KINDS,
    Absolute,
    AbsoluteWin,
    AbsoluteWinRecursive,
    WindowAligned,
    make_position_embedding,
    tile,
)
from hiera_mm.weights.loading import adapt_position

SMALL = dict(embed_dim=8, num_heads=1, depths=(1, 1, 2, 1))
LAYOUTS = {
    'release': SMALL,
    'windows': dict(SMALL, window_sizes=(8, 4, 6, 3)),  # three units: they seldom divide a map
    'sam2': dict(SMALL, window_sizes=(8, 4, 14, 7), global_blocks=(3,)),
}
STRIDES = (4, 8, 16, 32)
MOST_PIXELS = 2048 * 96  # of one image, for the sake of the tests' time

sides = st.one_of(
    st.integers(1, 40),
    st.integers(1, 2048),
    st.sampled_from([2, 3, 31, 32, 33, 97, 211, 449, 1021, 2039, 2048]),  # primes, borders, ends
)
sizes = st.tuples(sides, sides).filter(lambda size: size[0] * size[1] <= MOST_PIXELS)


def grids_up_to(most):
    """Return maps of whole mask units, at most so many on a side."""
    side = st.integers(1, most).map(lambda unit: 8 * unit)
    return st.tuples(side, side)


grids = grids_up_to(64)  # 2048 pixels
learnt_grids = grids_up_to(16)
combinations = pytest.mark.parametrize(
    ('kind', 'layout'), [(kind, layout) for kind in KINDS for layout in LAYOUTS]
)


def trunk_of(kind, layout):
    torch.manual_seed(0)
    trunk = HieraTrunk(LAYOUTS[layout], pos_embed=kind).double().eval()
    for name in trunk.position_names:  # as large as what it is added to, so that it matters
        torch.nn.init.normal_(getattr(trunk, name))
    return trunk


def parameters_of(embedding, dim=3):
    torch.manual_seed(0)
    return {n: torch.randn(s, dtype=torch.float64) for n, s in embedding.shapes(dim).items()}


@combinations
@settings(max_examples=12, deadline=None)
@given(size=sizes)
@example(size=(1, 1))
@example(size=(1, 2048))
@example(size=(2039, 7))
def test_shapes_and_padding(kind, layout, size):
    trunk = trunk_of(kind, layout)
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.no_grad():
        by_us, by_user = trunk(image), trunk(padded)
    for stage, stride in enumerate(STRIDES):
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        assert by_us[stage].shape == (1, 8 * 2**stage, rows, columns)
        assert by_us[stage].isfinite().all()
        assert torch.equal(by_us[stage], by_user[stage][..., :rows, :columns])


@combinations
@settings(max_examples=6, deadline=None)
@given(size=sizes, batch=st.integers(2, 3))
def test_a_batch_is_its_images_one_by_one(kind, layout, size, batch):
    trunk = trunk_of(kind, layout)
    images = torch.randn(batch, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        together = trunk(images)
        alone = [trunk(image[None]) for image in images]
    for stage, features in enumerate(together):
        expected = torch.cat([one[stage] for one in alone])
        # Not to the bit: the matrix library adds up in another order for another number of rows.
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layout', ['windows', 'sam2'])
def test_the_largest_image(kind, layout):
    trunk = trunk_of(kind, layout).float()
    with torch.no_grad():
        features = trunk(torch.randn(1, 3, 2048, 2048))
    assert [tuple(f.shape[2:]) for f in features] == [(2048 // s,) * 2 for s in STRIDES]
    assert all(f.isfinite().all() for f in features)


@settings(max_examples=25, deadline=None)
@given(grid=learnt_grids)
def test_all_forms_of_one_absolute_map_agree_at_its_size(grid):
    learnt = Absolute(grid)
    parameters = parameters_of(learnt)
    expected = learnt.resize(parameters, grid)
    assert torch.equal(WindowAligned(grid).resize(parameters, grid), expected)
    for form in (AbsoluteWin(grid), AbsoluteWinRecursive(grid, period=grid)):
        adapted, _ = adapt_position(parameters, learnt, form)
        # The two parts were subtracted and are added again: one rounding of each.
        torch.testing.assert_close(form.resize(adapted, grid), expected, rtol=0, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(learnt=learnt_grids, grid=grids)
def test_aligned_is_the_split_into_window_and_global_part(learnt, grid):
    parameters = parameters_of(Absolute(learnt), dim=2)
    split, _ = adapt_position(parameters, Absolute(learnt), AbsoluteWin(learnt))
    torch.testing.assert_close(
        WindowAligned(learnt).resize(parameters, grid),
        AbsoluteWin(learnt).resize(split, grid),
        rtol=0,
        atol=1e-12,
    )


@settings(max_examples=25, deadline=None)
@given(grid=grids, part=st.tuples(st.integers(1, 20), st.integers(1, 20)), antialias=st.booleans())
def test_the_window_part_repeats_every_eight_tokens_to_the_bit(grid, part, antialias):
    form = AbsoluteWin(part, antialias)
    parameters = parameters_of(form)
    parameters['pos_embed'].zero_()
    out = form.resize(parameters, grid)
    assert out.shape == (1, 3, *grid)
    assert torch.equal(out[..., 8:, :], out[..., :-8, :])
    assert torch.equal(out[..., 8:], out[..., :-8])
    assert torch.equal(out[..., :8, :8], parameters['pos_embed_window'])


@settings(max_examples=20, deadline=None)
@given(grid=grids, learnt=learnt_grids)
def test_a_periodic_map_is_tiled_by_the_aligned_form_and_torn_by_the_naive_one(grid, learnt):
    unit = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    parameters = {'pos_embed': tile(unit, learnt).flatten(2).transpose(1, 2)}
    aligned = WindowAligned(learnt).resize(parameters, grid)
    torch.testing.assert_close(aligned, tile(unit, grid), rtol=0, atol=1e-12)
    if grid != learnt:
        naive = Absolute(learnt).resize(parameters, grid)
        assert (naive - tile(unit, grid)).abs().max() > 1e-3


@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=8, deadline=None)
@given(grid=grids)
def test_gradients_reach_every_part(kind, grid):
    form = make_position_embedding(kind)
    parameters = {n: p.requires_grad_() for n, p in parameters_of(form, dim=1).items()}
    out = form.resize(parameters, grid)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
