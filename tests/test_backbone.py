import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import hiera_mm  # noqa: F401  (registers Hiera)
from hiera_mm.backbone import Hiera
from hiera_mm.errors import ConfigError


def test_every_toolbox_builds_it_from_the_root_registry(small_arch):
    from mmdet.registry import MODELS as DETECTION
    from mmengine.registry import MODELS as ROOT
    from mmseg.registry import MODELS as SEGMENTATION

    config = dict(type='Hiera', arch=small_arch)
    for registry in (ROOT, DETECTION, SEGMENTATION):
        assert type(registry.build(config)) is Hiera
    assert 'Hiera' in ROOT.module_dict
    assert 'Hiera' not in DETECTION.module_dict
    assert 'Hiera' not in SEGMENTATION.module_dict


def test_importing_twice_is_harmless():
    code = (
        'import importlib, hiera_mm, hiera_mm.backbone\n'
        'from mmengine.config import Config\n'
        "Config(dict(custom_imports=dict(imports=['hiera_mm'])))\n"
        "importlib.import_module('hiera_mm')"
    )
    subprocess.run([sys.executable, '-c', code], check=True, env=os.environ)


def test_importing_loads_nothing_that_a_config_may_not_need():
    slow = ('mmdet', 'mmseg', 'matplotlib', 'scipy', 'timm', 'hiera', 'pycocotools')
    ours = tuple(f'hiera_mm.{part}' for part in ('cost', 'swap', 'trial'))
    code = f'import sys, hiera_mm; print([m for m in {slow + ours} if m in sys.modules])'
    done = subprocess.run(
        [sys.executable, '-c', code], check=True, env=os.environ, capture_output=True, text=True
    )
    assert done.stdout.split('\n')[-2] == '[]'


def test_names_are_those_of_the_release():
    with torch.device('meta'):
        names = set(Hiera('tiny', out_norm=None).state_dict())
    block = {
        f'{layer}.{kind}'
        for layer in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
        for kind in ('weight', 'bias')
    }
    expected = {'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias'}
    expected |= {f'blocks.{i}.{name}' for i in range(12) for name in block}
    expected |= {f'blocks.{i}.proj.{kind}' for i in (1, 3, 10) for kind in ('weight', 'bias')}
    assert names == expected


def test_out_norm(small_arch):
    bare = Hiera(small_arch, out_norm=None).eval()
    normed = Hiera(small_arch, out_norm=dict(type='LN', eps=1e-3)).eval()
    missing, unexpected = normed.load_state_dict(bare.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split('.')[0] for name in missing} == {'out_norms'}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(bare(x), normed(x), strict=True):
            expected = torch.nn.functional.layer_norm(a.permute(0, 2, 3, 1), a.shape[1:2], eps=1e-3)
            torch.testing.assert_close(b, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ('frozen_stages', 'blocks'), [(-1, 0), (0, 0), (1, 1), (2, 3), (3, 5), (4, 6)]
)
def test_frozen_stages(small_arch, frozen_stages, blocks):
    backbone = Hiera(small_arch, frozen_stages=frozen_stages, drop_path_rate=0.3).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(f.square().sum() for f in backbone(torch.randn(2, 3, 32, 32))).backward()
    optimizer.step()
    frozen = [f'blocks.{i}.' for i in range(blocks)]
    if frozen_stages >= 0:
        frozen += ['patch_embed.', 'pos_embed']
    for name, value in backbone.state_dict().items():
        is_frozen = name.startswith(tuple(frozen)) if frozen else False
        assert torch.equal(value, before[name]) == is_frozen, name
    assert [block.training for block in backbone.blocks] == [
        index >= blocks for index in range(len(backbone.blocks))
    ]
    assert not any(block.training for block in backbone.eval().blocks)


def test_init_cfg_loads_the_backbone_out_of_a_detector(small_arch, tmp_path):
    trained = Hiera(small_arch)
    checkpoint = tmp_path / 'detector.pth'
    state = {f'backbone.{name}': value for name, value in trained.state_dict().items()}
    torch.save({'state_dict': state | {'neck.weight': torch.zeros(1)}}, checkpoint)
    backbone = Hiera(
        small_arch,
        init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'),
    )
    assert not torch.equal(backbone.pos_embed, trained.pos_embed)
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


def test_init_cfg_may_be_set_after_construction(small_arch, tmp_path):
    trained = Hiera(small_arch)
    torch.save(trained.state_dict(), tmp_path / 'weights.pth')
    backbone = Hiera(small_arch)
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    backbone.init_weights()
    assert torch.equal(backbone.pos_embed, trained.pos_embed)


def test_init_weights_keeps_the_start_drawn_at_construction(small_arch):
    backbone = Hiera(small_arch)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert (backbone.blocks[0].attn.qkv.bias == 0.02).all()


def test_a_copy_has_a_life_of_its_own(small_arch):
    backbone = Hiera(small_arch, frozen_stages=1).eval()
    copied = copy.deepcopy(backbone)
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), copied(x), strict=True))
        copied.pos_embed.add_(1)
        assert not torch.equal(backbone(x)[0], copied(x)[0])


def test_attributes_tell_tools_what_comes_out():
    with torch.device('meta'):
        backbone = Hiera('base_plus', out_indices=(1, 3))
        features = backbone(torch.empty(2, 3, 224, 320))
    assert backbone.out_channels == [224, 896]
    assert backbone.strides == [8, 32]
    assert [tuple(f.shape) for f in features] == [(2, 224, 28, 40), (2, 896, 7, 10)]


@pytest.mark.parametrize('size', [(64, 96), (97, 33), (1, 1)])
def test_outputs_in_the_strides_and_channels_asked_for(small_arch, size):
    strides = [4, 8, 8, 8, 64]
    backbone = Hiera(
        small_arch,
        out_indices=(0, 3, 2, 3, 3),
        out_strides=strides,
        out_channels=(5, 6, 7, 8, 9),
    ).eval()
    assert backbone.out_channels == [5, 6, 7, 8, 9]
    assert backbone.strides == strides
    x = torch.randn(2, 3, *size)
    features = backbone(x)
    assert [tuple(f.shape) for f in features] == [
        (2, dim, -(-size[0] // stride), -(-size[1] // stride))
        for dim, stride in zip((5, 6, 7, 8, 9), strides, strict=True)
    ]
    sum(f.square().sum() for f in features).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_resized_output_is_the_stage_resized(small_arch):
    torch.manual_seed(0)
    plain = Hiera(small_arch, out_indices=(1, 3)).eval()
    torch.manual_seed(0)
    resized = Hiera(small_arch, out_indices=(1, 3, 3), out_strides=(8, 8, 64)).eval()
    x = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        (second, last), (same, larger, smaller) = plain(x), resized(x)
    assert torch.equal(second, same)
    torch.testing.assert_close(larger, F.interpolate(last, (16, 8), mode='bilinear'))
    torch.testing.assert_close(smaller, F.avg_pool2d(last, 2))


@pytest.mark.parametrize('size', [(33, 33), (33, 300), (300, 33)])
def test_resized_outputs_do_not_drift(small_arch, size):
    """At sides that no stride divides, each step still stands for its own pixels."""
    strides = (4, 16, 32)
    backbone = Hiera(small_arch, out_indices=(0, 2, 3), out_strides=(8, 8, 8))
    features = [torch.randn(1, 2, *(-(-side // s) for side in size)) for s in strides]
    rows, columns = (-(-side // 8) for side in size)
    for feature, stride, out in zip(
        features, strides, backbone.outputs(features, size), strict=True
    ):
        if stride < 8:
            expected = F.avg_pool2d(feature, 8 // stride, ceil_mode=True, count_include_pad=False)
        else:
            expected = F.interpolate(feature, scale_factor=stride // 8, mode='bilinear')
        torch.testing.assert_close(out, expected[..., :rows, :columns])


def test_weights_load_into_a_backbone_with_projections_and_out_of_it(small_arch, tmp_path):
    torch.manual_seed(1)
    source = Hiera(small_arch, out_channels=(3, 3, 3, 3))
    file = tmp_path / 'weights.pth'
    torch.save({'state_dict': {f'backbone.{n}': t for n, t in source.state_dict().items()}}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    for options in ({}, dict(out_channels=(3, 3, 3, 3))):
        torch.manual_seed(2)
        backbone = Hiera(small_arch, init_cfg=init_cfg, **options)
        backbone.init_weights()
        for name, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[name]), name


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(arch='hirea'), ConfigError, 'no Hiera called'),
        (dict(arch=3), ConfigError, 'arch must be a name'),
        (dict(arch='auto'), ConfigError, 'takes the architecture from weights'),
        (
            dict(out_index=(0, 1)),
            ConfigError,
            "no argument 'out_index'; did you mean 'out_indices'",
        ),
        (dict(init_cfg=dict(checkpoint='x', prefxi='y')), ConfigError, 'prefix'),
        (dict(frozen_stages=5), ValueError, 'frozen_stages.*got 5'),
        (dict(frozen_stages=-2), ValueError, 'frozen_stages.*got -2'),
        (dict(out_norm='LN'), ConfigError, r"dict\(type='LN'\)"),
        (dict(out_norm=dict(type='BN')), ValueError, 'norm_cfg in the neck'),
        (dict(out_norm=dict(type='LN', momentum=1)), ValueError, 'optional eps'),
        (dict(out_strides=(4, 8)), ConfigError, r'out_strides \(4, 8\) needs one number for each'),
        (dict(out_channels=64), ConfigError, 'out_channels must be a sequence'),
        (dict(out_strides=(4, 8, 8, 0)), ValueError, 'above 0'),
        (dict(out_indices=3, out_strides=(8,)), ConfigError, 'out_indices must be a sequence'),
        (dict(out_indices=(3, 3)), ValueError, 'ascend'),
        (dict(out_indices=(3, 4), out_strides=(8, 8)), ValueError, 'stages 0, 1, 2, 3'),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Hiera(**options)


@pytest.mark.parametrize(
    ('device', 'dtype'),
    [
        ('cpu', torch.bfloat16),
        pytest.param('cuda', torch.bfloat16, marks=pytest.mark.gpu),
        pytest.param('cuda', torch.float16, marks=pytest.mark.gpu),
    ],
)
def test_trains_under_autocast(small_arch, device, dtype):
    backbone = Hiera(small_arch).to(device).train()
    x = torch.randn(2, 3, 100, 70, device=device)
    with torch.autocast(device, dtype=dtype):
        features = backbone(x)
    sum(f.float().square().mean() for f in features).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())
    with torch.no_grad():
        reference = copy.deepcopy(backbone).cpu()(x.cpu())
    for feature, expected in zip(features, reference, strict=True):
        assert (feature.float().cpu() - expected).abs().max() < 0.1
