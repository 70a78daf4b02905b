import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network import HieraTrunk
from hiera_mm.network.position import (
    KINDS,
    Absolute,
    AbsoluteWin,
    AbsoluteWinRecursive,
    EvaluationCache,
    kind_of,
    make_position_embedding,
)


@pytest.fixture
def trunk(small_arch):
    return HieraTrunk(small_arch).eval()


def counting_resize(trunk, monkeypatch):
    """Count how often the position embedding of ``trunk`` is really computed."""
    calls = []
    resize = trunk.position.resize

    def counted(parameters, grid):
        calls.append(grid)
        return resize(parameters, grid)

    monkeypatch.setattr(type(trunk.position), 'resize', lambda _, *args: counted(*args))
    return calls


def test_the_training_map_is_returned_as_learnt():
    learnt = torch.randn(1, 56 * 56, 4)
    out = Absolute().resize({'pos_embed': learnt}, (56, 56))
    assert torch.equal(out, learnt.reshape(1, 56, 56, 4).permute(0, 3, 1, 2))


@pytest.mark.parametrize('grid', [(8, 8), (16, 72), (64, 40)])
def test_other_maps_are_resized_bicubically(grid):
    learnt = torch.randn(1, 56 * 56, 4, dtype=torch.float64)
    out = Absolute().resize({'pos_embed': learnt}, grid)
    image = learnt.reshape(1, 56, 56, 4).permute(0, 3, 1, 2)
    assert torch.equal(out, F.interpolate(image, grid, mode='bicubic', align_corners=False))


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


def test_evaluation_resizes_once_per_size(trunk, monkeypatch):
    calls = counting_resize(trunk, monkeypatch)
    with torch.no_grad():
        for size in [(64, 32), (32, 64), (64, 32), (60, 30)]:
            trunk(torch.randn(1, 3, *size))
    assert calls == [(16, 8), (8, 16)]


@pytest.mark.parametrize(
    'change',
    [
        lambda p: p.data.mul_(2),
        lambda p: p.data.copy_(torch.randn_like(p)),
        lambda p: setattr(p, 'data', torch.randn_like(p)),
        lambda p: p.detach().numpy().fill(1),
        lambda p: torch.nn.init.normal_(p),
    ],
    ids=['in place', 'copy', 'new data', 'numpy', 'init'],
)
def test_the_cache_sees_every_kind_of_weight_change(trunk, change):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = trunk(image)
        change(trunk.pos_embed)
        after = trunk(image)
        fresh = copy.deepcopy(trunk)(image)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(after, fresh, strict=True))


def test_a_loaded_checkpoint_and_another_dtype_are_seen(trunk, small_arch):
    image = torch.randn(1, 3, 64, 64)
    other = HieraTrunk(small_arch).eval()
    with torch.no_grad():
        trunk(image)
        trunk.load_state_dict(other.state_dict())
        assert torch.equal(trunk(image)[3], other(image)[3])
        assert trunk.double()(image.double())[0].dtype == torch.float64


def test_gradients_reach_the_embedding_in_evaluation_too(trunk):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trunk(image)  # fills the cache
    trunk(image)[0].sum().backward()
    assert trunk.pos_embed.grad.abs().sum() > 0


def test_training_never_uses_the_cache(trunk, monkeypatch):
    calls = counting_resize(trunk, monkeypatch)
    trunk.train()
    with torch.no_grad():
        trunk(torch.randn(1, 3, 32, 32))
        trunk(torch.randn(1, 3, 32, 32))
    assert len(calls) == 2


def test_features_made_in_inference_mode_do_not_poison_later_training(trunk):
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        trunk(image)
    trunk.pos_embed.requires_grad_(False)
    trunk(image)[3].sum().backward()
    assert trunk.patch_embed.proj.weight.grad is not None


def test_the_cache_forgets_the_oldest_and_is_not_copied():
    cache = EvaluationCache(capacity=2)
    source = (torch.ones(1),)
    made = []

    def get(grid):
        return cache.get(grid, source, lambda: made.append(grid) or torch.zeros(grid))

    for grid in [(1, 1), (2, 2), (1, 1), (3, 3), (1, 1), (2, 2)]:
        get(grid)
    assert made == [(1, 1), (2, 2), (3, 3), (2, 2)]
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert not copied._entries
        assert copied._capacity == 2


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
