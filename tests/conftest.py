import pytest
import torch

import hiera_mm.ops


def pytest_report_header():
    # A compiled mmcv out of pip's cache would otherwise be tested without anybody noticing.
    return f'mmcv operators: {hiera_mm.ops.source()}'


@pytest.fixture(autouse=True)
def seeded():
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def small_arch():
    """A Hiera that builds and runs in milliseconds, with more than one head and block."""
    return dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(skip)
