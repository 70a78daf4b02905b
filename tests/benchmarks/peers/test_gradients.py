"""Same weights, same gradients as the release and SAM 2."""

import pytest
import torch

from benchmarks.peers import PEERS
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.families import FAMILIES

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(
    ('name', 'arch', 'size'),
    [
        ('hiera.Hiera', 'tiny', (224, 224)),
        ('timm.sam2_hiera', 'sam2_tiny', (224, 288)),
        pytest.param('timm.hiera_abswin', 'small_abswin', (256, 256), marks=pytest.mark.slow),
    ],
)
def test_gradients_agree(name, arch, size):
    peer = PEERS[name]
    if not peer.installed:
        pytest.skip(f'{peer.package} is not installed')
    reference = peer.make(arch)
    family = FAMILIES[peer.family]
    ours = HieraTrunk(arch, out_norm_eps=None).double().eval()
    depths = ours.variant.depths
    theirs = dict(reference.named_parameters())
    ours.load_state_dict({n: theirs[family.theirs(n, depths)] for n in ours.state_dict()})
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = peer.features(reference, x)
    weights = [torch.randn_like(e) for e in expected]
    sum((w * e).sum() for w, e in zip(weights, expected, strict=True)).backward()
    sum((w * f).sum() for w, f in zip(weights, ours(x), strict=True)).backward()
    for own, parameter in ours.named_parameters():
        gradient = theirs[family.theirs(own, depths)].grad
        assert gradient.abs().max() > 0, own
        difference = (parameter.grad - gradient).abs().max() / gradient.abs().max()
        assert difference <= 1e-9, own
