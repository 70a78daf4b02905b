import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network.layout import (
    coordinates,
    join_windows,
    mean_pool,
    pool_queries,
    split_windows,
    to_image,
    to_windows,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_two_orders_are_inverse(batch, channels, rows, columns):
    image = torch.randn(batch, channels, 8 * rows, 8 * columns)
    tokens = to_windows(image)
    assert tokens.shape == (batch, rows * columns, 64, channels)
    restored = to_image(tokens, (rows, columns))
    assert torch.equal(restored, image)
    assert restored.is_contiguous(memory_format=torch.channels_last)


def test_a_window_holds_one_mask_unit():
    image = torch.arange(16 * 24.0).reshape(1, 1, 16, 24)
    windows = to_windows(image)[0, :, :, 0]
    for row in range(2):
        for column in range(3):
            unit = image[0, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert set(windows[3 * row + column].tolist()) == set(unit.flatten().tolist())


def test_four_neighbours_in_the_order_are_a_patch_at_every_level():
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    order = to_windows(image)[0, 0, :, 0].long()
    for size in (2, 4, 8):
        for group in order.reshape(-1, size * size):
            rows, columns = group // 8, group % 8
            assert rows.max() - rows.min() == size - 1
            assert columns.max() - columns.min() == size - 1


@pytest.mark.parametrize('times', [1, 2, 3])
def test_pooling_tokens_is_max_pooling_of_the_map(times):
    image = torch.randn(2, 5, 16, 24)
    tokens, pooled = to_windows(image), image
    for _ in range(times):
        tokens, pooled = pool_queries(tokens), F.max_pool2d(pooled, 2)
    assert torch.equal(to_image(tokens, (2, 3)), pooled)


def test_mean_pooling_is_average_pooling_of_the_map():
    image = torch.randn(2, 5, 16, 24)
    pooled = to_image(mean_pool(to_windows(image)), (2, 3))
    torch.testing.assert_close(pooled, F.avg_pool2d(image, 2))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 2),
    st.sampled_from([1, 4, 16]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(2, 5),
)
def test_joined_windows_are_those_of_the_padded_map(batch, tokens, rows, columns, side):
    x = torch.randn(batch, rows * columns, tokens, 3)
    joined = join_windows(x, (rows, columns), side)
    unit = round(tokens**0.5)
    size = side * unit
    image = to_image(x, (rows, columns))
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % size, 0, -height % size))
    windows = image.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 3, 5, 1)
    expected = windows.reshape(-1, size * size, 3)
    assert joined.shape == expected.shape
    # Attention does not care for the order of tokens, so only the sets have to be the same.
    assert torch.equal(joined.sort(dim=1).values, expected.sort(dim=1).values)
    assert torch.equal(split_windows(joined, (rows, columns), side), x)


@pytest.mark.parametrize('tokens', [1, 4, 16, 64])
def test_coordinates_are_places_on_the_map(tokens):
    rows, columns = coordinates((2, 3), tokens, torch.device('cpu'))
    places = torch.stack([rows, columns], dim=-1).reshape(1, 6, tokens, 2)
    image = to_image(places, (2, 3))[0]
    height, width = image.shape[1:]
    assert torch.equal(image[0], torch.arange(height)[:, None].expand(height, width))
    assert torch.equal(image[1], torch.arange(width).expand(height, width))
