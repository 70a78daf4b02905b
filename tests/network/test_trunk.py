import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hiera_mm.network import HieraTrunk
from hiera_mm.network.block import DropPath

SMALL = dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))


@pytest.fixture(scope='module')
def trunk():
    torch.manual_seed(0)
    return HieraTrunk(SMALL).double().eval()


def image(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 3))
def test_the_contract_holds_at_any_size(trunk, height, width, batch):
    with torch.no_grad():
        features = trunk(image(batch, 3, height, width))
    for feature, channels, stride in zip(features, trunk.out_channels, trunk.strides, strict=True):
        assert feature.shape == (
            batch, channels, math.ceil(height / stride), math.ceil(width / stride),
        )  # fmt: skip
        assert feature.is_contiguous()
        assert feature.isfinite().all()


@pytest.mark.parametrize('size', [(64, 64), (40, 70)])
def test_features_have_the_memory_format_of_the_image(trunk, size):
    x = image(2, 3, *size)
    with torch.no_grad():
        plain, last = trunk(x), trunk(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(plain, last, strict=True):
        assert a.is_contiguous()
        assert b.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(a, b)


@pytest.mark.parametrize('size', [(1, 1), (31, 33), (100, 45), (64, 97)])
def test_padding_is_that_of_the_data_preprocessor(trunk, size):
    x = image(2, 3, *size)
    padded = F.pad(x, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.no_grad():
        ours, theirs = trunk(x), trunk(padded)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b[..., : a.shape[-2], : a.shape[-1]])


def test_a_batch_is_its_images_one_by_one(trunk):
    x = image(3, 3, 70, 50)
    with torch.no_grad():
        together = trunk(x)
        alone = [trunk(x[i : i + 1]) for i in range(3)]
    for stage, feature in enumerate(together):
        torch.testing.assert_close(
            feature, torch.cat([a[stage] for a in alone]), rtol=0, atol=1e-12
        )


@pytest.mark.peers
@pytest.mark.parametrize('q_pool', [1, 2, 3])
def test_fewer_query_poolings_are_the_releases(small_arch, q_pool):
    from hiera import Hiera

    theirs = Hiera(embed_dim=16, num_heads=2, stages=(1, 2, 2, 1), q_pool=q_pool).double()
    arch = dict(small_arch, q_pool=q_pool, pos_embed='absolute')
    ours = HieraTrunk(arch, out_norm_eps=None).double()
    names = ours.state_dict()
    ours.load_state_dict({name: t for name, t in theirs.state_dict().items() if name in names})
    x = image(2, 3, 224, 224)
    with torch.no_grad():
        expected, found = theirs(x, return_intermediates=True)[1], ours(x)
    assert ours.strides == [4 * 2 ** min(stage, q_pool) for stage in range(4)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.permute(0, 3, 1, 2), rtol=0, atol=1e-9)
    odd = [tuple(feature.shape[2:]) for feature in ours(image(1, 3, 40, 70))]
    assert odd == [(-(-40 // stride), -(-70 // stride)) for stride in ours.strides]


def test_windows_do_not_see_each_other_in_the_local_stages(trunk):
    x = image(1, 3, 96, 96)
    y = x.clone()
    y[..., 40:60, 40:60] += 1  # well inside the central mask unit
    with torch.no_grad():
        difference = [(a - b).abs().amax(1)[0] > 0 for a, b in zip(trunk(x), trunk(y), strict=True)]
    for stage in (0, 1):
        side = (8, 4)[stage]
        outside = difference[stage].clone()
        outside[side : 2 * side, side : 2 * side] = False
        assert not outside.any()
        assert difference[stage].any()
    assert difference[2].all()  # global from here on


@pytest.mark.parametrize('indices', [(0,), (3,), (1, 2), (0, 3), [0, 1, 2, 3]])
def test_out_indices(trunk, indices):
    part = HieraTrunk(SMALL, out_indices=indices).double().eval()
    part.load_state_dict({k: v for k, v in trunk.state_dict().items() if k in part.state_dict()})
    x = image(1, 3, 40, 72)
    with torch.no_grad():
        features, every = part(x), trunk(x)
    assert len(features) == len(indices) == len(part.out_channels) == len(part.strides)
    for feature, index in zip(features, indices, strict=True):
        assert torch.equal(feature, every[index])


def test_parameters_all_get_gradients_whatever_is_asked_for():
    for indices in [(0,), (1, 2), (3,)]:
        part = HieraTrunk(SMALL, out_indices=indices)
        sum(f.square().sum() for f in part(torch.randn(1, 3, 64, 64))).backward()
        assert [n for n, p in part.named_parameters() if p.grad is None] == []


def test_outputs_are_layer_normed(trunk):
    with torch.no_grad():
        for feature in trunk(image(1, 3, 64, 64)):
            assert feature.mean(1).abs().max() < 1e-6
            assert (feature.var(1, unbiased=False) - 1).abs().max() < 1e-2


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(trunk, dtype):
    typed = copy.deepcopy(trunk).to(dtype)
    x = image(1, 3, 50, 70)
    with torch.no_grad():
        features, exact = typed(x.to(dtype)), trunk(x)
    tolerance = {torch.float32: 1e-4, torch.float64: 0, torch.bfloat16: 0.2}[dtype]
    for feature, reference in zip(features, exact, strict=True):
        assert feature.dtype == dtype
        assert (feature.double() - reference).abs().max() <= tolerance


def test_autocast(trunk):
    single = copy.deepcopy(trunk).float()
    x = image(2, 3, 64, 64).float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = single(x)
        sum(f.float().square().mean() for f in features).backward()
    with torch.no_grad():
        for feature, reference in zip(features, single(x), strict=True):
            assert (feature.float() - reference).abs().max() < 0.2
    assert single.blocks[0].attn.qkv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize('training', [False, True])
def test_compiles_without_a_graph_break(trunk, training):
    eager = copy.deepcopy(trunk).float().train(training)
    compiled = torch.compile(eager, fullgraph=True, backend='eager', dynamic=False)
    for size in [(64, 64), (40, 70)]:
        x = torch.randn(2, 3, *size)
        for a, b in zip(compiled(x), eager(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('size', [(64, 64), (40, 70)])
def test_traces(trunk, size):
    x = image(2, 3, *size)
    traced = torch.jit.trace(trunk, x)
    y = image(2, 3, *size)
    with torch.no_grad():
        for a, b in zip(traced(y), trunk(y), strict=True):
            assert torch.equal(a, b)


def test_checkpointing_changes_memory_not_results():
    plain = HieraTrunk(SMALL, drop_path_rate=0.5)
    saving = HieraTrunk(SMALL, drop_path_rate=0.5, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 64, 64)
    saved = []
    for trunk in (plain, saving):
        torch.manual_seed(1)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            sum(f.square().mean() for f in trunk(x)).backward()
        saved.append(sum(kept))
    assert saved[1] < saved[0] / 2
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample[:, 0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_drop_path_grows_linearly():
    trunk = HieraTrunk(dict(SMALL, depths=(1, 1, 2, 1)), drop_path_rate=0.4)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(out_indices=(0, 4)), ValueError, 'names 4'),
        (dict(out_indices=(-1,)), ValueError, 'names -1'),
        (dict(out_indices=(2, 0)), ValueError, r'did you mean \(0, 2\)'),
        (dict(out_indices=(1, 1)), ValueError, 'without repetition'),
        (dict(out_indices=()), ValueError, 'empty'),
        (dict(out_indices=3), TypeError, 'sequence'),
        (dict(drop_path_rate=1.0), ValueError, r'\[0, 1\)'),
        (dict(in_channels=0), ValueError, 'in_channels'),
        (dict(pos_embed='relative'), ValueError, 'known kinds: absolute'),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        HieraTrunk(SMALL, **options)


@pytest.mark.parametrize(
    ('x', 'error', 'message'),
    [
        (torch.zeros(3, 32, 32), ValueError, r'3-D tensor of shape \(3, 32, 32\).*image\[None\]'),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, r'got torch\.uint8.*float'),
        (torch.zeros(1, 4, 32, 32), ValueError, 'images of 3 channels, got 4.*in_channels=4'),
        (torch.zeros(1, 3, 0, 32), ValueError, 'at least 1x1'),
        (torch.zeros(0, 3, 32, 32), ValueError, 'at least one image'),
        ([1, 2], TypeError, 'got list'),
    ],
)
def test_bad_images(trunk, x, error, message):
    with pytest.raises(error, match=message):
        trunk(x)


def test_other_channel_counts():
    trunk = HieraTrunk(SMALL, in_channels=5)
    assert trunk(torch.randn(1, 5, 32, 32))[0].shape == (1, 16, 8, 8)


def test_a_new_network_has_no_weight_that_nobody_drew(monkeypatch):
    # Memory that is not initialised holds NaN here.
    monkeypatch.setattr(torch.utils.deterministic, 'fill_uninitialized_memory', True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for arch in ('base_abswin', dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))):
            trunk = HieraTrunk(arch, rel_pos='global')
            for name, parameter in trunk.named_parameters():
                assert parameter.isfinite().all(), name
    finally:
        torch.use_deterministic_algorithms(False)
    for name, parameter in trunk.named_parameters():
        if name.endswith(('norm1.bias', 'fc1.bias')):
            assert (parameter == 0.02).all()
        elif name.endswith('fc1.weight') or name.startswith('pos_embed'):
            assert 0.015 < parameter.std() < 0.025
        elif 'rel_pos' in name or (name.startswith('out_norms') and name.endswith('bias')):
            assert (parameter == 0).all()


class Draws(TorchDispatchMode):
    """Counts the random numbers that are drawn into memory."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and out.device.type != 'meta':
            self.count += out.numel()
        return out


def test_each_weight_is_drawn_once():
    with Draws() as draws:
        trunk = HieraTrunk(SMALL)
    weights = sum(p.numel() for p in trunk.parameters() if p.ndim > 1)
    assert draws.count == weights + trunk.patch_embed.proj.bias.numel()


def test_on_the_meta_device_nothing_is_drawn():
    with Draws() as draws, torch.device('meta'):
        trunk = HieraTrunk('huge')
    assert draws.count == 0
    assert all(parameter.is_meta for parameter in trunk.parameters())


def test_no_tensor_has_more_than_six_dimensions(trunk):
    class Dimensions(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.most = max(self.most, out.ndim)
            return out

    with Dimensions() as seen:
        HieraTrunk(dict(SMALL, window_sizes=(8, 4, 6, 3)))(torch.randn(1, 3, 100, 70))
    assert 4 < seen.most <= 6


def operators_in_the_backward_graph(features):
    names, todo = set(), [f.grad_fn for f in features]
    while todo:
        node = todo.pop()
        if node is not None and node not in names:
            names.add(node)
            todo += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in names}


@pytest.mark.parametrize('kind', ['absolute', 'absolute_win', 'window_aligned'])
def test_the_backward_pass_holds_only_operators_with_a_deterministic_form(kind):
    trunk = HieraTrunk(SMALL, pos_embed=kind, rel_pos='global')
    names = operators_in_the_backward_graph(trunk(torch.randn(1, 3, 100, 260)))
    # All that there are. On CUDA each is deterministic, or becomes so where torch is asked for it
    # (torch.use_deterministic_algorithms lists the convolution, gather and index operators).
    # Interpolation and adaptive pooling have no deterministic gradient there.
    known = {
        'AccumulateGrad', 'AddBackward0', 'AddmmBackward0', 'AliasBackward0', 'BmmBackward0',
        'CatBackward0', 'CloneBackward0', 'ConstantPadNdBackward0', 'ConvolutionBackward0',
        'DivBackward0', 'ExpandBackward0', 'GatherBackward0', 'GeluBackward0',
        'MaxPool2DWithIndicesBackward0', 'MeanBackward1', 'MmBackward0', 'MulBackward0',
        'NativeLayerNormBackward0', 'NegBackward0', 'PermuteBackward0', 'ReshapeAliasBackward0',
        'ScaledDotProductFlashAttentionForCpuBackward0', 'SliceBackward0', 'SplitBackward0',
        'SqueezeBackward1', 'TBackward0', 'TransposeBackward0', 'UnsafeViewBackward0',
        'UnsqueezeBackward0', 'ViewBackward0',
    }  # fmt: skip
    assert names <= known, names - known


def test_every_module_can_draw_its_own_weights_as_sharded_training_asks():
    torch.manual_seed(1)
    drawn = HieraTrunk(dict(SMALL, layer_scale=True), rel_pos='global')
    with torch.device('meta'):
        late = HieraTrunk(dict(SMALL, layer_scale=True), rel_pos='global')
    for module in late.modules():
        if list(module.parameters(recurse=False)):
            module.to_empty(device='cpu', recurse=False)
            module.reset_parameters()
    for (name, a), b in zip(drawn.named_parameters(), late.parameters(), strict=True):
        if a.numel() > 500:
            assert b.std().item() == pytest.approx(a.std().item(), rel=0.2), name
            assert abs(b.mean() - a.mean()) < 0.2 * a.std() + 1e-9, name
        elif not name.startswith('patch_embed'):  # whose bias is random
            torch.testing.assert_close(a.mean(), b.mean(), rtol=0.05, atol=0.01, msg=name)


def test_builds_and_runs_without_memory():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        trunk = HieraTrunk('huge', drop_path_rate=0.1)
        features = trunk(torch.empty(1, 3, 1024, 800))
    assert [tuple(f.shape) for f in features] == [
        (1, 256 * 2**i, 256 // 2**i, 200 // 2**i) for i in range(4)
    ]


def test_an_adapter_may_take_the_place_of_a_linear_layer():
    class Adapter(torch.nn.Module):
        """As the adapters of mmpretrain and peft: it has no ``out_features``."""

        def __init__(self, layer):
            super().__init__()
            self.original = layer

        def forward(self, x):
            return self.original(x)

    trunk = HieraTrunk(SMALL).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = trunk(x)
        for block in trunk.blocks:
            block.attn.qkv, block.attn.proj = Adapter(block.attn.qkv), Adapter(block.attn.proj)
            block.mlp.fc1 = Adapter(block.mlp.fc1)
        for a, b in zip(before, trunk(x), strict=True):
            assert torch.equal(a, b)
