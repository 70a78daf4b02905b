"""Shared by the tests of the operators, which all go through ``mmcv.ops``."""

import pytest
import torch

import hiera_mm.ops

hiera_mm.ops.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip what a compiled mmcv itself cannot do, so that the same tests also run on one."""
    try:
        return (yield)
    except RuntimeError as error:
        lacks = any(
            sign in str(error)
            for sign in ('implementation for device cpu', 'expected scalar type Float')
        )
        if hiera_mm.ops.source() == 'compiled' and lacks:
            pytest.skip(f'the compiled mmcv cannot: {str(error).splitlines()[0]}')
        raise


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


@pytest.fixture
def stand_in_only():
    """Skip on a compiled mmcv, for what goes beyond it."""
    if hiera_mm.ops.source() == 'compiled':
        pytest.skip('goes beyond what a compiled mmcv does')


@pytest.fixture
def random_boxes():
    """Make boxes (N, 4) with positive sizes, some of them outside a 100 x 100 image."""

    def make(count, dtype=torch.float32):
        start = torch.rand(count, 2, dtype=dtype) * 120 - 20
        return torch.cat([start, start + 1 + torch.rand(count, 2, dtype=dtype) * 40], dim=1)

    return make


@pytest.fixture
def random_rois(random_boxes):
    """Make regions (K, 5) on a batch of images."""

    def make(count, batch, dtype=torch.float32):
        images = torch.randint(batch, (count, 1)).to(dtype)
        return torch.cat([images, random_boxes(count, dtype)], dim=1)

    return make
