"""What cannot be measured is said before any work begins."""

import pytest
import torch

from benchmarks.backbones import setting as backbone_setting
from benchmarks.backbones.setting import Setting
from hiera_mm.errors import UserError


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(rounds=0), 'rounds must be at least 1, got 0'),
        (dict(warmups=-1), 'warmups must be at least 0, got -1'),
        (dict(batch=0), 'batch must be at least 1'),
        (dict(threads=0), 'threads must be at least 1'),
        (dict(peers=('timm.hierra',)), "called 'timm.hierra' to compare with; did you mean 'timm."),
        (dict(peers=('hiera_mm.Hiera',)), 'nothing called'),
        (dict(dtype='float64'), 'must be one of float32, bfloat16, float16'),
        (dict(device='gpu'), "no device 'gpu'; use cpu or cuda"),
        (dict(device='meta'), 'not on meta'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Setting(**options)


def test_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='torch finds no CUDA device here'):
        Setting(device='cuda')


def test_a_peer_that_is_not_installed(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    with pytest.raises(UserError, match='needs the package timm, which is not installed'):
        Setting(peers=('timm.hiera',))
    assert Setting().peers == ()


@pytest.mark.parametrize('fails', [False, True])
def test_a_dtype_that_the_device_lacks(monkeypatch, fails):
    def refuse(*_):
        if fails:
            raise RuntimeError('"addmm" not implemented for Half')
        return torch.zeros(1)  # in float32: autocast has switched itself off

    monkeypatch.setattr(backbone_setting.torch, 'conv2d', refuse)
    Setting(peers=())
    with pytest.raises(UserError, match='cannot run networks in float16 on cpu; use another'):
        Setting(peers=(), dtype='float16')
