"""Counts against formulas written by hand, and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hiera_mm.backbone import Hiera
from hiera_mm.cost.counting import MultiplyAdds, WithoutProducts, counting
from hiera_mm.cost.parts import REST, Parts, is_backbone
from hiera_mm.network import HieraTrunk, strips

RELEASE = dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))
SAM2 = dict(
    embed_dim=16, num_heads=1, depths=(1, 2, 3, 2), window_sizes=(8, 4, 14, 7), global_blocks=(4,)
)


def counted(model: nn.Module, *inputs: torch.Tensor) -> MultiplyAdds:
    with torch.no_grad(), counting(model) as counts:
        model(*inputs)
    return counts


def by_hand(arch: dict, height: int, width: int) -> tuple[list[int], int]:
    """Multiply-adds of stem and stages, and of the attention products among them."""
    windows = arch.get('window_sizes', (8, 4, 0, 0))
    rows, columns = height // 4, width // 4
    dim = arch['embed_dim']
    counts = [rows * columns * dim * 3 * 7 * 7]
    attention = block = 0
    for stage, depth in enumerate(arch['depths']):
        counts.append(0)
        for index in range(depth):
            first = stage > 0 and index == 0
            out = 2 * dim if first else dim
            window = windows[stage - 1] if first else windows[stage]
            if block in arch.get('global_blocks', ()):
                window = 0
            # Windows that do not divide the map are filled up.
            full = [-(-side // window) * window if window else side for side in (rows, columns)]
            tokens = full[0] * full[1]
            keys = window**2 or tokens
            queries = tokens // 4 if first else tokens
            products = 2 * queries * keys * out
            left = rows * columns // 4 if first else rows * columns
            shortcut = rows * columns * dim * out if first else 0
            counts[-1] += tokens * dim * 3 * out + products + left * out * out
            counts[-1] += shortcut + 2 * left * out * 4 * out
            attention += products
            if first:
                rows, columns, dim = rows // 2, columns // 2, out
            block += 1
    return counts, attention


@pytest.mark.parametrize('device', ['cpu', 'meta'])
@pytest.mark.parametrize(
    ('arch', 'size'),
    [(RELEASE, (64, 96)), (RELEASE, (224, 224)), (SAM2, (224, 224)), (SAM2, (256, 160))],
)
def test_a_hiera_by_hand(arch, size, device):
    with torch.device(device):
        trunk, image = HieraTrunk(arch).eval(), torch.rand(1, 3, *size)
    counts = counted(trunk, image)
    stages, attention = by_hand(arch, *size)
    assert list(counts.total.values()) == stages
    assert list(counts.total) == ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4']
    assert counts.attention.total() == attention


def test_the_way_it_is_computed_does_not_change_the_count(monkeypatch):
    image = torch.rand(1, 3, 128, 96)
    plain = counted(HieraTrunk(RELEASE).eval(), image).total
    monkeypatch.setattr(strips, 'STRIP_BYTES', 1)
    assert counted(HieraTrunk(RELEASE).eval(), image).total == plain
    checkpointed = HieraTrunk(RELEASE, with_cp=True).train()
    with counting(checkpointed) as counts:
        checkpointed(image)
    assert counts.total == plain
    trunk = HieraTrunk(RELEASE).eval()
    with torch.inference_mode(), counting(trunk) as counts:
        trunk(image)
    assert counts.total == plain
    with torch.no_grad(), WithoutProducts(), counting(trunk) as counts:
        features = trunk(image)
    assert counts.total == plain
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 32, 24), (32, 16, 12), (64, 8, 6), (128, 4, 3),
    ]  # fmt: skip


def test_attention_counts_the_same_however_it_is_computed():
    query, key = torch.rand(2, 3, 4, 8), torch.rand(2, 3, 16, 8)
    expected = sdpa_flop_count(query.shape, key.shape, key.shape) // 2
    assert expected == 2 * 2 * 3 * 4 * 16 * 8

    class Attention(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, k)

    for tensors in [(query, key), (query.to('meta'), key.to('meta'))]:
        counts = counted(Attention(), *tensors)
        assert counts.total.total() == counts.attention.total() == expected


def test_attention_of_torch():
    """A whole encoder layer, which torch would run as one operator."""
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True).eval()
    counts = counted(layer, torch.rand(2, 5, 8))
    assert counts.attention.total() == 2 * 2 * 5 * 5 * 8
    assert counts.total.total() == 2 * 2 * 5 * 5 * 8 + 10 * (4 * 8 * 8 + 2 * 8 * 12)
    assert torch.backends.mha.get_fastpath_enabled()


def test_products_of_batches_outside_attention_are_not_attention():
    class Masks(nn.Module):
        def forward(self, queries: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
            return torch.einsum('bqc,bchw->bqhw', queries, pixels)

    counts = counted(Masks(), torch.rand(2, 3, 4), torch.rand(2, 4, 5, 5))
    assert counts.total.total() == 2 * 3 * 4 * 25
    assert counts.attention.total() == 0


def test_products_with_a_weight_inside_attention_are_not_attention():
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # torch makes a product of batches of it, all with the same weight.
            return F.linear(x.transpose(0, 1), torch.rand(3, 4))

    counts = counted(Attention(), torch.rand(5, 2, 4))
    assert counts.total.total() == 5 * 2 * 4 * 3
    assert counts.attention.total() == 0


def test_sampling_and_deformable_convolution():
    class Sample(nn.Module):
        def forward(self, mode: str) -> torch.Tensor:
            places = torch.rand(1, 4, 4, 2)
            return F.grid_sample(torch.rand(1, 3, 8, 8), places, mode, align_corners=False)

    for mode, corners in (('bilinear', 4), ('nearest', 0), ('bicubic', 16)):
        assert counted(Sample(), mode).total.total() == corners * 3 * 16
    layer = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2)
    image, offset, mask = (torch.rand(1, channels, 8, 8) for channels in (4, 18, 9))
    products, samples = 64 * 6 * 2 * 9, 64 * 4 * 9
    assert counted(layer, image, offset).total.total() == products + 4 * samples
    assert counted(layer, image, offset, mask).total.total() == products + 5 * samples


class Head(nn.Module):
    """Is used as mmseg uses its heads: by `predict`, which calls `forward` itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) @ self.weight

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward(x) @ self.weight


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.decode_head = Head()
        self.auxiliary_head = Head()
        self.auxiliary_head.layer = self.decode_head.layer
        self.scale = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode_head.predict(self.backbone(x)) @ self.scale


def test_everything_belongs_to_a_part():
    model = Model()
    counts = counted(model, torch.rand(1, 4))
    # A layer that two heads share belongs to one of them.
    assert counts.total == {'backbone': 16, 'decode_head': 32, 'auxiliary_head': 16, REST: 16}
    assert Parts(model).parameters() == {
        'backbone': 20, 'decode_head': 16, 'auxiliary_head': 36, REST: 16,
    }  # fmt: skip
    assert 'forward' not in vars(model.decode_head)
    assert 'predict' not in vars(model.decode_head)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        model(torch.rand(1, 4))
    assert theirs.get_total_flops() == 2 * counts.total.total()


def test_a_hiera_inside_a_model_inside_a_model():
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Hiera(
                RELEASE, out_indices=(1, 2), out_strides=(4, 16), out_channels=(8, 8)
            )
            self.neck = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.neck(self.backbone(x)[0])

    counts = counted(nn.ModuleDict({'teacher': Detector()})['teacher'], torch.rand(1, 3, 64, 64))
    assert counts.total['backbone.outputs'] == 8 * 8 * 32 * 8 + 4 * 4 * 64 * 8
    parameters = Parts(nn.ModuleDict({'teacher': Detector()})).parameters()
    assert [name for name, number in parameters.items() if number] == [
        *(f'teacher.backbone.{part}' for part in ('stem', 'stage 1', 'stage 2', 'stage 3')),
        'teacher.backbone.outputs', 'teacher.neck',
    ]  # fmt: skip
    assert is_backbone('teacher.backbone.stage 2')
    assert not is_backbone('teacher.neck')


class Classifier(nn.Module):
    """What Table 2 counts: the last stage, its norm, the mean over places, 1000 classes."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = HieraTrunk(arch, out_indices=(3,))
        self.head = nn.Linear(self.backbone.out_channels[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[0].mean((2, 3)))


@pytest.mark.parametrize(
    ('arch', 'gflops', 'parameters'),
    [
        ('tiny', 5, 28),
        pytest.param('small', 6, 35, marks=pytest.mark.slow),
        ('base', 9, 52),
        pytest.param('base_plus', 13, 70, marks=pytest.mark.slow),
        pytest.param('large', 40, 214, marks=pytest.mark.slow),
        pytest.param('huge', 125, 673, marks=pytest.mark.slow),
    ],
)
def test_table_2_of_the_paper(arch, gflops, parameters):
    with torch.device('meta'):
        model, image = Classifier(arch).eval(), torch.rand(1, 3, 224, 224)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == parameters
    assert round(counted(model, image).total.total() / 1e9) == gflops
