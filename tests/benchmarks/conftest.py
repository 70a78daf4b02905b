"""For the benchmark of backbones: a Hiera of milliseconds, and made-up peers of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hiera_mm  # noqa: F401  supplies mmcv's operators
from benchmarks.backbones.contestants import CONTESTANTS, OURS, Contestant
from benchmarks.kit import ceiling
from benchmarks.peers import Peer
from hiera_mm.network import VARIANTS, Variant


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an architecture that runs in milliseconds, on a machine of small matrices."""
    monkeypatch.setitem(VARIANTS, 'micro', Variant(16, 1, (1, 1, 1, 1)))
    monkeypatch.setitem(ceiling.SIDES, 'cpu', (16, 32))
    return 'micro'


@pytest.fixture
def add_peer(micro: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Let another project's class take part: ours under another name, but for what is given."""

    def add(name: str, **changed: object) -> str:
        fields = dict(
            name=name,
            package='torch',
            archs=(micro,),
            build=CONTESTANTS[OURS].build,
            features=CONTESTANTS[OURS].features,
            family='ours',
        )
        peer = Peer(**{**fields, **changed})
        monkeypatch.setitem(
            CONTESTANTS, name, Contestant(name, peer.package, peer.build, peer.features, peer)
        )
        return name

    return add
