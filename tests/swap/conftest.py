from __future__ import annotations

import pytest

import hiera_mm  # noqa: F401  supplies mmcv's operators
from hiera_mm.network import VARIANTS, Variant

SLIM = 'slim'  # an architecture that is built and run in moments
WIDTHS = [16, 32, 64, 128]


@pytest.fixture(autouse=True, scope='module')
def slim_arch():
    """Let there be a small Hiera under a name of its own."""
    variant = Variant(embed_dim=WIDTHS[0], num_heads=1, depths=(1, 1, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, SLIM, variant)
        yield
