import pytest
import torch

from hiera_mm.errors import CheckpointError
from hiera_mm.network.position import Absolute, AbsoluteWin, WindowAligned, mean_unit, tile
from hiera_mm.weights.positions import adapt, split, window_share

DIM = 3


def absolute(side=56):
    return {'pos_embed': torch.randn(1, side * side, DIM, dtype=torch.float64)}


def win(grid=(7, 7)):
    return {
        'pos_embed': torch.randn(1, DIM, *grid, dtype=torch.float64),
        'pos_embed_window': torch.randn(1, DIM, 8, 8, dtype=torch.float64),
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ('parameters', 'theirs', 'ours'),
    [
        (absolute(), Absolute(), Absolute()),
        (absolute(), Absolute(), WindowAligned()),
        (absolute(112), Absolute((112, 112)), WindowAligned((112, 112))),
        (win(), AbsoluteWin((7, 7)), AbsoluteWin((7, 7))),
    ],
)
def test_the_same_form_is_left_alone(parameters, theirs, ours):
    adapted, done = adapt(parameters, theirs, ours)
    assert equal(adapted, parameters)
    assert done is None


@pytest.mark.parametrize('kind', [Absolute, WindowAligned])
def test_a_map_of_another_size_is_resized_as_the_network_would(kind):
    parameters = absolute(112)
    adapted, done = adapt(parameters, Absolute((112, 112)), kind())
    expected = kind((112, 112)).resize(parameters, (56, 56))
    assert torch.equal(kind().learnt(adapted), expected)
    assert '112x112 map resized to 56x56' in done


def test_both_kinds_resize_differently():
    parameters = absolute(112)
    naive, _ = adapt(parameters, Absolute((112, 112)), Absolute())
    aligned, _ = adapt(parameters, Absolute((112, 112)), WindowAligned())
    assert not torch.allclose(naive['pos_embed'], aligned['pos_embed'])


def test_absolute_win_to_absolute_is_exact_at_the_training_size():
    parameters, theirs = win(), AbsoluteWin((7, 7))
    for ours in (Absolute(), WindowAligned()):
        adapted, done = adapt(parameters, theirs, ours)
        assert torch.equal(ours.resize(adapted, (56, 56)), theirs.resize(parameters, (56, 56)))
        assert 'window part tiled over 56x56' in done


def test_the_global_part_changes_size_alone():
    parameters = win((7, 7))
    adapted, done = adapt(parameters, AbsoluteWin((7, 7)), AbsoluteWin((14, 14)))
    assert adapted['pos_embed'].shape == (1, DIM, 14, 14)
    assert torch.equal(adapted['pos_embed_window'], parameters['pos_embed_window'])
    assert 'global part resized from 7x7 to 14x14' in done


def test_a_global_part_as_large_as_the_map_loses_nothing():
    parameters, ours = absolute(), AbsoluteWin((56, 56))
    adapted, done = adapt(parameters, Absolute(), ours)
    torch.testing.assert_close(
        ours.resize(adapted, (56, 56)), Absolute().learnt(parameters), rtol=0, atol=1e-14
    )
    assert 'equal to the map' in done
    # and then it is another parametrisation of the window-aligned form
    for grid in [(8, 8), (64, 40), (112, 112)]:
        torch.testing.assert_close(
            ours.resize(adapted, grid), WindowAligned().resize(parameters, grid), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('grid', [(7, 7), (14, 14), (14, 10)])
def test_the_split_is_the_nearest_there_is(grid, antialias):
    form = AbsoluteWin(grid, antialias)
    learnt = Absolute().learnt(absolute())
    window, part = split(learnt, form)
    assert torch.equal(window, mean_unit(learnt))
    rest = learnt - tile(window, (56, 56))

    def error(candidate):
        resized = form.resize(
            {'pos_embed': candidate, 'pos_embed_window': torch.zeros_like(window)}, (56, 56)
        )
        return (resized - rest).square().sum()

    part.requires_grad_()
    (gradient,) = torch.autograd.grad(error(part), part)
    assert gradient.abs().max() < 1e-10 * error(torch.zeros_like(part))
    assert error(part) < error(torch.zeros_like(part))


@pytest.mark.parametrize('antialias', [False, True])
def test_a_map_that_is_such_a_sum_is_found_again(antialias):
    form = AbsoluteWin((7, 7), antialias)
    parameters = win()
    made = form.resize(parameters, (56, 56))
    adapted, done = adapt({'pos_embed': made.flatten(2).transpose(1, 2)}, Absolute(), form)
    again = form.resize(adapted, (56, 56))
    # The mean mask unit holds a little of the global part, so this is near and not exact.
    assert (again - made).norm() < 0.1 * made.norm()
    assert '% of it is lost (RMS)' in done


def test_another_cubic_is_mentioned():
    _, done = adapt(win(), AbsoluteWin((7, 7), antialias=True), AbsoluteWin((7, 7)))
    assert 'another cubic' in done


def test_maps_that_are_not_whole_mask_units_are_refused():
    with pytest.raises(
        CheckpointError, match='covers 14x14 tokens, which are not whole mask units'
    ):
        adapt(absolute(14), Absolute((14, 14)), WindowAligned())


@pytest.mark.parametrize('rest', [0.0, 1.0, 3.0])
def test_the_share_of_the_window_part(rest):
    torch.manual_seed(0)
    unit, other = torch.randn(1, 500, 8, 8), torch.randn(1, 500, 56, 56)
    whole = tile(unit, (56, 56)) + rest * (other - tile(mean_unit(other), (56, 56)))
    share = window_share({'pos_embed': whole.flatten(2).transpose(1, 2)}, WindowAligned())
    assert share == pytest.approx(1 / (1 + rest**2 * 48 / 49), rel=0.05)
    parts = {'pos_embed': torch.zeros(1, 500, 7, 7), 'pos_embed_window': unit}
    assert window_share(parts, AbsoluteWin((7, 7))) == pytest.approx(1, rel=0.02)
