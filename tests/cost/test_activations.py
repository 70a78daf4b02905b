from __future__ import annotations

import torch
from torch import nn

from hiera_mm.cost.activations import saved_activations
from hiera_mm.cost.counting import WithoutProducts
from hiera_mm.network import HieraTrunk

FLOAT = 4  # bytes


def kept(model: nn.Module, x: torch.Tensor) -> int:
    with saved_activations(model) as activations:
        model(x)
    return activations.bytes


def test_a_small_module_by_hand():
    """Kept are: the input, for the weight; the hidden layer, for GELU; what GELU made of it."""
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
    assert kept(model, torch.rand(16, 8)) == FLOAT * 16 * (8 + 32 + 32)


def test_what_is_saved_twice_counts_once():
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.exp()  # exp keeps its result, the product both of its factors

    x = torch.rand(10, requires_grad=True)
    assert kept(Twice(), x) == FLOAT * 20


def test_parameters_and_buffers_do_not_count():
    norm = nn.BatchNorm1d(3).eval()
    assert kept(norm, torch.rand(5, 3)) == FLOAT * 15
    assert kept(norm.requires_grad_(False), torch.rand(5, 3)) == 0


def test_copies_of_parameters_do_not_count():
    model, x = nn.Linear(8, 4), torch.rand(2, 8, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        assert kept(model, x) == 2 * 16  # the input in bfloat16


def test_freed_memory_is_not_mistaken_for_kept():
    """Each layer's output is freed at once here, as nothing is really kept."""
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)])
    assert kept(model, torch.rand(32, 64)) == FLOAT * 20 * 32 * 64


def test_the_products_need_not_be_computed(small_arch):
    trunk, image = HieraTrunk(small_arch), torch.rand(1, 3, 64, 96)
    truly = kept(trunk, image)
    with WithoutProducts():
        assert kept(trunk, image) == truly


def test_checkpointing_keeps_less(small_arch):
    image = torch.rand(1, 3, 64, 64)
    plain, checkpointed = (kept(HieraTrunk(small_arch, with_cp=cp), image) for cp in (False, True))
    # Of six blocks it keeps the inputs, 768 tokens of 16 channels and less.
    assert image.nbytes < checkpointed < plain / 4
