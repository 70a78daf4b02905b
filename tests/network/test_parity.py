"""Same weights, same features as the release (the package hiera-transformer)."""

import pytest
import torch

from hiera_mm.network import VARIANTS, HieraTrunk

pytestmark = pytest.mark.peers

SLOW = ('large', 'huge')


def pair(arch):
    """Return the release's model with random weights, and ours with the same."""
    hiera = pytest.importorskip('hiera')
    reference = getattr(hiera, f'hiera_{arch}_224')().double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # biases and norms start alike; tell them apart
            parameter.add_(0.01 * torch.randn_like(parameter))
    trunk = HieraTrunk(arch, out_norm_eps=None).double().eval()
    missing, unexpected = trunk.load_state_dict(reference.state_dict(), strict=False)
    assert missing == []
    assert {key.split('.')[0] for key in unexpected} == {'norm', 'head'}
    return reference, trunk


@pytest.mark.parametrize(
    'arch',
    [pytest.param(a, marks=pytest.mark.slow if a in SLOW else ()) for a in VARIANTS],
)
def test_features_agree(arch):
    reference, trunk = pair(arch)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        _, expected = reference(x, return_intermediates=True)
        features = trunk(x)
    for feature, nhwc in zip(features, expected, strict=True):
        difference = (feature - nhwc.permute(0, 3, 1, 2)).abs().max().item()
        assert difference <= 1e-9
        assert feature.std() > 1e-3


def test_gradients_agree():
    reference, trunk = pair('tiny')
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    _, expected = reference(x, return_intermediates=True)
    weights = [torch.randn_like(e) for e in expected]
    sum((w * e).sum() for w, e in zip(weights, expected, strict=True)).backward()
    sum(
        (w.permute(0, 3, 1, 2) * f).sum() for w, f in zip(weights, trunk(x), strict=True)
    ).backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in trunk.named_parameters():
        gradient = theirs[name].grad
        assert gradient.abs().max() > 0, name
        difference = (parameter.grad - gradient).abs().max() / gradient.abs().max()
        assert difference <= 1e-9, name
