"""Windows that do not divide the map mean what they mean to SAM 2."""

import pytest

from benchmarks.peers import PEERS
from benchmarks.peers.compare import LIMIT, compare

pytestmark = pytest.mark.peers

SIZES = [(32, 32), (64, 480), (256, 96), (448, 608), (64, 992), (736, 96), (480, 224)]


@pytest.mark.parametrize(
    ('name', 'arch', 'sizes'),
    [
        ('timm.sam2_hiera', 'sam2_tiny', SIZES[:3]),  # windows of 14 and 7
        *(
            pytest.param(name, arch, SIZES, marks=pytest.mark.slow)
            for name, arch in (
                ('timm.sam2_hiera', 'sam2_tiny'),
                ('timm.sam2_hiera', 'hieradet_small'),  # windows of 16 and 8
                ('transformers.Sam2HieraDetModel', 'sam2_tiny'),
            )
        ),
    ],
)
def test_at_sizes_that_do_not_divide(name, arch, sizes):
    peer = PEERS[name]
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    done = compare(peer, arch, sizes)
    assert [one.size for one in done] == sizes
    for one in done:
        assert max(one.differences) <= LIMIT
