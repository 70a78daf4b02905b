import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network.layout import (
    join_units,
    max_pool,
    mean_pool,
    split_windows,
    to_image,
    to_units,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_two_orders_are_inverse(batch, channels, rows, columns):
    image = torch.randn(batch, channels, 8 * rows, 8 * columns)
    tokens = to_units(image, (rows, columns))
    assert tokens.shape == (batch, rows * columns, 64, channels)
    restored = to_image(tokens, (rows, columns))
    assert torch.equal(restored, image)
    assert restored.is_contiguous(memory_format=torch.channels_last)


def test_an_entry_is_one_mask_unit():
    image = torch.arange(16 * 24.0).reshape(1, 1, 16, 24)
    units = to_units(image, (2, 3))[0, :, :, 0]
    for row in range(2):
        for column in range(3):
            unit = image[0, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert set(units[3 * row + column].tolist()) == set(unit.flatten().tolist())


def test_four_neighbours_in_the_order_are_a_patch_at_every_level():
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    order = to_units(image, (1, 1))[0, 0, :, 0].long()
    for size in (2, 4, 8):
        for group in order.reshape(-1, size * size):
            rows, columns = group // 8, group % 8
            assert rows.max() - rows.min() == size - 1
            assert columns.max() - columns.min() == size - 1


@pytest.mark.parametrize('times', [1, 2, 3])
def test_pooling_tokens_is_max_pooling_of_the_map(times):
    image = torch.randn(2, 5, 16, 24)
    tokens, pooled = to_units(image, (2, 3)), image
    for _ in range(times):
        tokens, pooled = max_pool(tokens), F.max_pool2d(pooled, 2)
    assert torch.equal(to_image(tokens, (2, 3)), pooled)


def test_mean_pooling_is_average_pooling_of_the_map():
    image = torch.randn(2, 5, 16, 24)
    pooled = to_image(mean_pool(to_units(image, (2, 3))), (2, 3))
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
    joined = join_units(x, (rows, columns), side)
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


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_of_equal_tokens_the_one_that_the_references_pick_gets_the_gradient(dtype):
    image = torch.randint(3, (2, 16, 24, 5)).permute(0, 3, 1, 2).to(dtype)  # full of ties
    weight = torch.randn(2, 5, 8, 12).to(dtype)
    ours, sam2, release = (image.clone().requires_grad_() for _ in range(3))
    pooled = to_image(max_pool(to_units(ours, (2, 3))), (2, 3))
    by_map = F.max_pool2d(sam2, 2)
    patches = release.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)
    by_axis = patches.max(dim=4).values
    for out in (pooled, by_map, by_axis):
        (out * weight).sum().backward()
    assert torch.equal(pooled, by_map)
    assert torch.equal(pooled, by_axis)
    assert torch.equal(ours.grad, sam2.grad)
    assert torch.equal(ours.grad, release.grad)
