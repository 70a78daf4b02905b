import pytest
import torch

from hiera_mm.network import HieraTrunk, strips

ARCHS = {
    'release': dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1)),
    'sam2': dict(
        embed_dim=16,
        num_heads=2,
        depths=(1, 2, 3, 2),
        window_sizes=(8, 4, 6, 3),
        global_blocks=(4,),
    ),
}


@pytest.fixture
def cuts(monkeypatch):
    """Strips as low as they can be, and a list of how many each cut gave."""
    monkeypatch.setattr(strips, 'STRIP_BYTES', 1)
    made = []
    cut = strips.cut

    def counted(*args):
        parts = list(cut(*args))
        made.append(len(parts))
        return parts

    monkeypatch.setattr(strips, 'cut', counted)
    return made


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('size', [(224, 96), (250, 40), (32, 500)])
def test_strips_change_nothing(arch, size, cuts):
    trunk = HieraTrunk(ARCHS[arch]).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    whole = trunk(images)  # gradients are on
    assert cuts == []
    with torch.no_grad():
        cut = trunk(images)
    assert max(cuts) == -(-size[0] // 32)
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert b.is_contiguous()


def test_a_strip_holds_whole_windows_and_not_much_more_than_the_aim(monkeypatch):
    x = torch.zeros(2, 10 * 6, 64, 8)
    monkeypatch.setattr(strips, 'STRIP_BYTES', 2 * x.nbytes)  # of the hidden layer of five rows
    heights = [[grid[0] for _, grid in strips.cut(x, (10, 6), rows)] for rows in (1, 3)]
    assert heights == [[5, 5], [3, 3, 3, 1]]
    assert torch.equal(strips.join([part for part, _ in strips.cut(x, (10, 6), 1)], 1), x)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('dynamic', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_network_compiled_for_a_size_is_cut_and_one_for_all_sizes_is_not(
    arch, dynamic, monkeypatch
):
    trunk = HieraTrunk(ARCHS[arch]).double().eval()
    layers = []

    def backend(graph, _):
        layers.append(sum('linear' in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    for aim in (strips.COMPILED_STRIP_BYTES, 1):
        monkeypatch.setattr(strips, 'COMPILED_STRIP_BYTES', aim)
        torch._dynamo.reset()
        compiled = torch.compile(trunk, backend=backend, fullgraph=True, dynamic=dynamic)
        images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
        with torch.no_grad():
            for a, b in zip(trunk(images), compiled(images), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    tells = hasattr(torch.fx.experimental.symbolic_shapes, 'has_static_value')  # older ones do not
    assert (layers[1] > 1.5 * layers[0]) == (tells and not dynamic)


def test_drop_path_still_drops_whole_samples(cuts):
    """Strips in training would each draw anew which samples are dropped."""
    trunk = HieraTrunk(ARCHS['release'], drop_path_rate=0.5).train()
    with torch.no_grad():
        trunk(torch.randn(2, 3, 128, 64))
    assert cuts == []
