import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from hiera_mm.swap.features import Feature, choose_stages, emitted, numbers_as_hiera


@pytest.mark.parametrize(
    ('strides', 'asked', 'stages', 'wanted'),
    [
        # ResNet and Swin: the same stages.
        ((4, 8, 16, 32), (0, 1, 2, 3), (0, 1, 2, 3), (4, 8, 16, 32)),
        ((8, 16, 32), (1, 2, 3), (1, 2, 3), (8, 16, 32)),
        ((32,), (3,), (3,), (32,)),
        # A ResNet whose last stages are dilated keeps its numbers, and its strides.
        ((4, 8, 8, 8), (0, 1, 2, 3), (0, 1, 2, 3), (4, 8, 8, 8)),
        ((4, 8), (0, 3), (0, 3), (4, 8)),
        # A fifth stage has no like here.
        ((4, 8, 16, 32), (1, 2, 3, 4), (0, 1, 2, 3), (4, 8, 16, 32)),
        # Others number otherwise, or do not say: by stride.
        ((4, 8, 16), None, (0, 1, 2), (4, 8, 16)),
        ((8, 16, 32), None, (1, 2, 3), (8, 16, 32)),
        ((8, 16, 32, 64), None, (1, 2, 3, 3), (8, 16, 32, 64)),
        ((2, 4, 8, 16, 32), None, (0, 0, 1, 2, 3), (4, 4, 8, 16, 32)),
        # A plain ViT gives four maps of one stride, a U-Net ends with the image itself, CGNet
        # gives one fine map: by depth.
        ((16, 16, 16, 16), None, (0, 1, 2, 3), (16, 16, 16, 16)),
        ((16, 8, 4, 2, 1), None, (0, 0, 1, 2, 3), (16, 8, 4, 4, 4)),
        ((8,), None, (3,), (8,)),
    ],
)
def test_stages_for_every_kind_of_backbone(strides, asked, stages, wanted):
    features = [Feature(channels=8, stride=stride) for stride in strides]
    assert choose_stages(features, asked) == (stages, wanted)


@pytest.mark.parametrize(
    ('backbone', 'alike'),
    [
        (dict(type='ResNet', depth=18, out_indices=(3,)), True),
        (dict(type='ResNet', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)), True),
        # Its stem is number 0.
        (dict(type='CSPDarknet', out_indices=(1, 2, 3)), False),
        (dict(type='MobileNetV2', out_indices=(1, 2, 4, 7)), False),
        (dict(type='HRNet', extra={}), False),
    ],
)
def test_whether_stages_are_numbered_alike_is_found_by_running_the_backbone(backbone, alike):
    assert numbers_as_hiera(backbone, 'mmdet') is alike


@pytest.mark.parametrize(
    ('strides', 'asked', 'main', 'stages'),
    [
        # BiSeNet: the main head reads the first of several branches.
        ((8, 8, 16), None, 0, (3, 2, 3)),
        ((8, 4, 8, 16, 32), None, 0, (3, 0, 1, 2, 3)),
        ((4, 8, 8, 8), (0, 1, 2, 3), -1, (0, 1, 2, 3)),
        # Of a pyramid the head chose its level by stride.
        ((4, 8, 16, 32), (0, 1, 2, 3), 2, (0, 1, 2, 3)),
    ],
)
def test_the_main_head_reads_the_last_stage(strides, asked, main, stages):
    features = [Feature(channels=8, stride=stride) for stride in strides]
    assert choose_stages(features, asked, main)[0] == stages


@MODELS.register_module()
class Counting(nn.Module):
    """A backbone that reads numbers from tensors while it is built; on the meta device are none."""

    def __init__(self):
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.convs = nn.ModuleList(nn.Conv2d(3, 16, 1, int(16 * rate)) for rate in rates[1:])

    def forward(self, x):
        return [conv(x) for conv in self.convs]


def test_what_a_backbone_gives_is_found_by_running_it():
    assert emitted(dict(type='Counting'), 'mmdet') == (Feature(16, 8), Feature(16, 16))
    assert emitted(dict(type='ResNet', depth=18), 'mmdet') == tuple(
        Feature(channels, stride) for channels, stride in ((64, 4), (128, 8), (256, 16), (512, 32))
    )
