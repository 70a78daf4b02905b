"""Same weights, same features as every other Hiera: the proof, peer by peer."""

import pytest
import torch

from benchmarks.peers import PEERS
from benchmarks.peers.compare import LIMIT, Comparison, compare, table

pytestmark = pytest.mark.peers


EVERY_DAY = (  # of each project, and of each way to lay out windows, one model and one size
    'hiera.Hiera',
    'hiera.MaskedAutoencoderHiera',
    'timm.hiera',
    'timm.hiera_abswin',
    'timm.sam2_hiera',
    'transformers.HieraModel',
    'transformers.Sam2HieraDetModel',
)


def cases():
    """One case for each peer, architecture and image size."""
    for peer in PEERS.values():
        for arch in peer.archs:
            for size in peer.sizes:
                first = (arch, size) == (peer.archs[0], peer.sizes[0])
                marks = [] if first and peer.name in EVERY_DAY else [pytest.mark.slow]
                name = f'{peer.name}-{arch}-{size[0]}x{size[1]}'
                yield pytest.param(peer, arch, size, marks=marks, id=name)


def test_every_day_some_of_each_project_are_compared():
    assert set(EVERY_DAY) <= set(PEERS)


@pytest.mark.parametrize(('peer', 'arch', 'size'), cases())
def test_features_agree(peer, arch, size):
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    (done,) = compare(peer, arch, [size])
    assert len(done.differences) == 4
    assert max(done.differences) <= LIMIT
    assert done.magnitude > 1e-3


def test_a_difference_is_seen(monkeypatch):
    peer = PEERS['timm.hiera']
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    monkeypatch.setattr(
        'hiera_mm.network.block.max_pool', lambda x: x.unflatten(-2, (-1, 4))[..., 0, :]
    )
    (done,) = compare(peer, 'tiny')
    assert done.differences[0] <= LIMIT  # nothing is pooled in the first stage
    assert min(done.differences[1:]) > LIMIT


@pytest.mark.slow
def test_no_two_parameters_are_alike():
    peer = PEERS['timm.hiera_abswin']
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    for name, parameter in peer.make('base_abswin').named_parameters():
        assert parameter.unique().numel() > 0.9 * parameter.numel(), name


def test_the_table(monkeypatch):
    peer = PEERS['timm.hiera']
    monkeypatch.setattr('benchmarks.peers.compare.PEERS', {peer.name: peer})
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    lines = []
    text, within = table(['tiny'], lines.append)
    assert within
    assert text.splitlines()[2].startswith('| `timm.hiera` | tiny | 224x224 | ')
    assert len(lines) == 1
    assert torch.get_default_dtype() == torch.float32


def test_a_table_with_a_nan_in_it_is_no_agreement(monkeypatch):
    done = Comparison('peer', 'tiny', (224, 224), (1e-15, float('nan'), 1e-15, 1e-15), 1.0)
    monkeypatch.setattr('benchmarks.peers.compare.compare', lambda *_: [done])
    _, within = table(['tiny'], lambda _: None)
    assert not within
