import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network.layout import pool_queries, to_image, to_windows


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_two_orders_are_inverse(batch, channels, rows, columns):
    image = torch.randn(batch, channels, 8 * rows, 8 * columns)
    tokens = to_windows(image)
    assert tokens.shape == (batch, rows * columns, 64, channels)
    restored = to_image(tokens, (rows, columns))
    assert torch.equal(restored, image)
    assert restored.is_contiguous()


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
