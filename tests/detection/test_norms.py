"""LayerNorm over channels: its numbers, and what mmcv and mmengine make of it."""

import runpy
import subprocess
import sys

import pytest
import torch
from mmcv.cnn import ConvModule, build_norm_layer, is_norm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch.nn import functional as F

from hiera_mm.detection import norms
from hiera_mm.detection.norms import LayerNorm2d


@pytest.mark.parametrize('shape', [(2, 8, 5, 7), (1, 3, 1, 1)])
@pytest.mark.parametrize('eps', [1e-6, 1e-3])
def test_it_is_layer_norm_over_channels(shape, eps):
    norm = LayerNorm2d(shape[1], eps=eps).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = norm(x)
    channels_last = x.permute(0, 2, 3, 1)
    wanted = F.layer_norm(channels_last, shape[1:2], norm.weight, norm.bias, eps)
    torch.testing.assert_close(out, wanted.permute(0, 3, 1, 2), rtol=0, atol=0)
    by_hand = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + eps).sqrt()
    by_hand = by_hand * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(out, by_hand, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(norm, x)


def test_no_objects_are_no_trouble():
    assert LayerNorm2d(8)(torch.rand(0, 8, 7, 7)).shape == (0, 8, 7, 7)


def test_mmcv_builds_it_by_name():
    name, norm = build_norm_layer(dict(type='LN2d', eps=1e-4, requires_grad=False), 16, postfix=1)
    assert isinstance(norm, MODELS.get('LN2d'))
    assert (name, norm.eps, norm.normalized_shape) == ('ln1', 1e-4, (16,))
    assert not any(parameter.requires_grad for parameter in norm.parameters())
    assert is_norm(norm)
    conv = ConvModule(3, 16, 3, padding=1, norm_cfg=dict(type='LN2d'))
    assert conv.conv.bias is None
    assert conv(torch.rand(2, 3, 8, 8)).shape == (2, 16, 8, 8)


def test_its_weight_decay_can_be_left_out_as_that_of_other_norms():
    model = ConvModule(3, 4, 1, norm_cfg=dict(type='LN2d'))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
    )
    decays = {
        id(parameter): group['weight_decay']
        for group in wrapper.param_groups
        for parameter in group['params']
    }
    assert decays[id(model.conv.weight)] == 0.1
    assert decays[id(model.norm.weight)] == decays[id(model.norm.bias)] == 0.0


@pytest.fixture
def imported_again(monkeypatch):
    """Run the module with only this norm registered under its name."""

    def run(theirs=None):
        monkeypatch.setitem(MODELS.module_dict, 'LN2d', theirs)
        if theirs is None:
            del MODELS.module_dict['LN2d']
        return runpy.run_path(norms.__file__)['LayerNorm2d']

    return run


def test_it_needs_no_mmdet(monkeypatch, imported_again):
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    assert imported_again() is MODELS.get('LN2d')


def test_a_name_that_is_taken_stays_with_its_owner(imported_again):
    class Theirs(torch.nn.LayerNorm):
        pass

    imported_again(Theirs)
    assert MODELS.get('LN2d') is Theirs


@pytest.mark.slow
def test_it_comes_only_when_asked_for():
    code = 'import sys, hiera_mm; sys.exit("hiera_mm.detection" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)
