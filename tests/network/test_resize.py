import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_mm.network.resize import cubic_matrix, linear_matrix, mean_matrix, resize

sides = st.integers(2, 80)  # torch resizes a side of 1 wrongly where it antialiases
sizes = st.tuples(sides, sides)


def matrices_of(make, x, out):
    return [make(size, side, x) for size, side in zip(x.shape[2:], out, strict=True)]


@settings(max_examples=60, deadline=None)
@given(size=sizes, out=sizes, antialias=st.booleans())
def test_cubic_is_that_of_torch(size, out, antialias):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    rows, columns = matrices_of(lambda n, m, x: cubic_matrix(n, m, antialias, x), x, out)
    expected = F.interpolate(x, out, mode='bicubic', antialias=antialias)
    torch.testing.assert_close(resize(x, rows, columns), expected, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(size=sizes, out=sizes)
def test_linear_is_that_of_torch(size, out):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    rows, columns = matrices_of(lambda n, m, x: linear_matrix(n, m, n / m, x), x, out)
    expected = F.interpolate(x, out, mode='bilinear')
    torch.testing.assert_close(resize(x, rows, columns), expected, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(size=sizes, ratio=st.integers(1, 4))
def test_means_are_those_of_torch(size, ratio):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    expected = F.avg_pool2d(x, ratio, ceil_mode=True, count_include_pad=False)
    out = expected.shape[2:]
    rows, columns = matrices_of(lambda n, m, x: mean_matrix(n, m, ratio, x), x, out)
    torch.testing.assert_close(resize(x, rows, columns), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('antialias', [False, True])
def test_at_its_own_size_a_map_stays_as_it_is(antialias):
    x = torch.randn(2, 3, 14, 56)
    rows, columns = matrices_of(lambda n, m, x: cubic_matrix(n, m, antialias, x), x, (14, 56))
    assert torch.equal(resize(x, rows, columns), x)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_and_half_precision_do_not_blur(dtype):
    x = torch.randn(1, 3, 7, 7).to(dtype)
    rows, columns = matrices_of(lambda n, m, x: cubic_matrix(n, m, False, x), x.float(), (40, 24))
    with torch.autocast('cpu', torch.bfloat16):
        out = resize(x, rows, columns)
    exact = F.interpolate(x.float(), (40, 24), mode='bicubic').to(dtype)
    assert out.dtype == dtype
    torch.testing.assert_close(out, exact, rtol=2**-8 if dtype == torch.bfloat16 else 0, atol=1e-5)
