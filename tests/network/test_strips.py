import pytest
import torch

from hiera_mm.network import HieraTrunk
from hiera_mm.network import strips as module
from hiera_mm.network.strips import join, strips

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
    monkeypatch.setattr(module, 'STRIP_BYTES', 1)
    made = []

    def counted(*args, **kwargs):
        parts = list(strips(*args, **kwargs))
        made.append(len(parts))
        return parts

    for user in ('trunk', 'block'):
        monkeypatch.setattr(f'hiera_mm.network.{user}.strips', counted)
    return made


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('size', [(224, 96), (250, 40), (32, 500)])
def test_strips_change_nothing(arch, size, cuts):
    trunk = HieraTrunk(ARCHS[arch]).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    whole = trunk(images)  # gradients are on
    assert set(cuts) == {1}
    cuts.clear()
    with torch.no_grad():
        cut = trunk(images)
    rows = -(-size[0] // 32)
    assert max(cuts) == rows
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert b.is_contiguous()


def test_a_strip_holds_whole_windows_and_not_much_more_than_the_aim(monkeypatch):
    x = torch.zeros(2, 10 * 6, 64, 8)
    monkeypatch.setattr(module, 'STRIP_BYTES', 2 * x.nbytes)  # of the hidden layer of five rows
    with torch.no_grad():
        heights = [[grid[0] for _, grid in strips(x, (10, 6), rows, 4, False)] for rows in (1, 3)]
        parts = [part for part, _ in strips(x, (10, 6), 1, 4, False)]
    assert heights == [[5, 5], [3, 3, 3, 1]]
    assert torch.equal(join(parts, 1), x)


def compile_counting(network, **options):
    """Compile a network; return it, and a list of the linear layers in each graph."""
    torch._dynamo.reset()
    layers = []

    def backend(graph, _):
        layers.append(sum('linear' in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    return torch.compile(network, backend=backend, fullgraph=True, **options), layers


@pytest.mark.parametrize('arch', ARCHS)
def test_a_network_compiled_for_a_size_is_cut(arch, monkeypatch):
    trunk = HieraTrunk(ARCHS[arch]).double().eval()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    numbers = []
    for aim in (module.COMPILED_STRIP_BYTES, 1):
        monkeypatch.setattr(module, 'COMPILED_STRIP_BYTES', aim)
        compiled, layers = compile_counting(trunk, dynamic=False)
        with torch.no_grad():
            for a, b in zip(trunk(images), compiled(images), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        numbers += layers
    assert numbers[1] > 1.5 * numbers[0]


def test_a_block_compiled_for_all_sizes_is_not_cut(monkeypatch):
    monkeypatch.setattr(module, 'COMPILED_STRIP_BYTES', 1)
    block = HieraTrunk(ARCHS['release']).double().eval().blocks[4]
    compiled, layers = compile_counting(block, dynamic=True)
    with torch.no_grad():
        for grid in [(3, 2), (4, 5), (2, 7)]:
            x = torch.randn(2, grid[0] * grid[1], 4, 64, dtype=torch.float64)
            torch.testing.assert_close(block(x, grid), compiled(x, grid), rtol=0, atol=1e-12)
    assert layers == [4]


def test_drop_path_still_drops_whole_samples(cuts):
    """Strips in training would each draw anew which samples are dropped."""
    trunk = HieraTrunk(ARCHS['release'], drop_path_rate=0.5).train()
    with torch.no_grad():
        trunk(torch.randn(2, 3, 128, 64))
    assert set(cuts) == {1}
