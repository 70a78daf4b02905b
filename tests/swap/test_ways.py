import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from hiera_mm.errors import ConfigError
from hiera_mm.swap.ways import at, lost_settings, swap_model
from hiera_mm.trial.configs import resolve

from .conftest import SLIM, WIDTHS

OPTIONS = dict(arch=SLIM)
DETECTOR = 'mmdet/rpn/rpn_r50_fpn_1x_coco'
SEGMENTER = 'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024'


def model_of(name):
    return Config.fromfile(resolve(name)).model.to_dict()


def swapped(name):
    return swap_model(model_of(name), name.partition('/')[0], OPTIONS)


def test_a_detector_with_a_neck():
    model = model_of(DETECTOR)
    before = copy.deepcopy(model)
    found = swap_model(model, 'mmdet', OPTIONS)
    assert model == before
    assert found.model['backbone'] == dict(type='Hiera', arch=SLIM)
    assert found.model['neck']['in_channels'] == WIDTHS
    assert found.model['neck']['out_channels'] == 256
    assert not found.unread
    assert found.prediction_error is None


def test_heads_of_a_dilated_backbone_get_its_strides_and_images_keep_their_channels():
    model = model_of(SEGMENTER)
    model['backbone']['in_channels'] = 5
    model['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(64, 64))
    found = swap_model(model, 'mmseg', {**OPTIONS, 'drop_path_rate': 0.1})
    # In the order of the signature, as one reads it.
    assert list(found.model['backbone'].items()) == [
        ('type', 'Hiera'), ('arch', SLIM), ('out_indices', (2, 3)), ('out_strides', (8, 8)),
        ('drop_path_rate', 0.1), ('in_channels', 5),
    ]  # fmt: skip
    for head, place in (('decode_head', 1), ('auxiliary_head', 0)):
        assert found.model[head]['in_channels'] == WIDTHS[2 + place]
        assert found.model[head]['in_index'] == place
    assert ('backbone', 'out_strides') in found.remarks


def test_settings_that_hiera_has_too_stay_and_the_others_are_told():
    model = model_of(SEGMENTER)
    old = model['backbone'] | dict(with_cp=True, frozen_stages=2)
    model['backbone'] = old
    options = dict(OPTIONS, init_cfg=dict(type='Pretrained', checkpoint='some.pth'))
    new = swap_model(model, 'mmseg', options).model['backbone']
    assert (new['with_cp'], new['frozen_stages']) == (True, 2)
    assert set(lost_settings(old, new)) == set(old) - set(new) - {'norm_eval'}  # norm_eval=False
    # What starts at random is trained.
    new = swap_model(model, 'mmseg', OPTIONS, trial=False).model['backbone']
    assert 'frozen_stages' not in new
    assert 'frozen_stages' in lost_settings(old, new)


def test_frozen_stages_of_a_backbone_that_counts_its_stem_are_not_those_of_hiera():
    model = model_of(DETECTOR)
    model['backbone'] = dict(type='CSPDarknet', out_indices=(1, 2, 3), frozen_stages=1)
    model['neck']['in_channels'] = [128, 256, 512]
    options = dict(OPTIONS, init_cfg=dict(type='Pretrained', checkpoint='some.pth'))
    found = swap_model(model, 'mmdet', options)
    assert found.model['backbone'] == dict(type='Hiera', out_indices=(0, 1, 2), **options)
    assert found.model['neck']['in_channels'] == WIDTHS[:3]


@MODELS.register_module()
class OnGPU(nn.Module):
    """A neck that runs nowhere here."""

    def __init__(self, in_channels):
        super().__init__()

    def forward(self, features):
        raise RuntimeError('needs a GPU')


def test_what_cannot_run_here_can_be_swapped_untried():
    model = with_neck('OnGPU', in_channels=[256, 512])
    with pytest.raises(ConfigError, match=r'needs a GPU\n.*--no-trial'):
        swap_model(model, 'mmseg', OPTIONS)
    found = swap_model(model, 'mmseg', OPTIONS, trial=False)
    assert found.model['neck']['in_channels'] == WIDTHS[2:]
    assert found.unread


# Of each config, what stands where in the swapped model.
DAILY = {
    # Outputs that nobody reads are left out.
    'mmdet/retinanet/retinanet_r18_fpn_1x_coco': {
        'backbone.out_indices': (1, 2, 3), 'neck.in_channels': WIDTHS[1:], 'neck.start_level': 0,
    },
    # A network of several branches.
    'mmseg/bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024': {
        'backbone.out_indices': (3, 2, 3), 'decode_head.in_channels': WIDTHS[3],
    },
}  # fmt: skip
SLOW = {
    # The main head reads what the neck makes, which is as before; the other one what it hands on.
    'mmseg/fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024': {
        'backbone.out_indices': (1, 2, 3), 'neck.in_channels': tuple(WIDTHS[1:]),
        'decode_head.in_channels': 2048, 'auxiliary_head.in_channels': WIDTHS[2],
    },
    # Heads inside heads.
    'mmseg/knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512': {
        'decode_head.kernel_generate_head.in_channels': WIDTHS[3],
        'decode_head.kernel_update_head.0.in_channels': 512,
    },
    # The neck that makes a pyramid of a plain ViT.
    'mmseg/vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512': {
        'neck': None, 'backbone': dict(type='Hiera', arch=SLIM), 'decode_head.in_channels': WIDTHS,
    },
    # Trackers, semi-supervised detectors, students with a teacher.
    'mmdet/masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019': {
        'detector.backbone.type': 'Hiera', 'detector.neck.in_channels': WIDTHS,
    },
    'mmdet/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco': {
        'detector.backbone.type': 'Hiera', 'detector.neck.in_channels': WIDTHS,
    },
    # Operators that test one image at a time, given proposals, large pooling windows, offsets of a
    # finer level.
    'mmdet/guided_anchoring/ga-rpn_r50_fpn_1x_coco': {},
    'mmdet/fast_rcnn/fast-rcnn_r50_fpn_1x_coco': {},
    'mmseg/mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024': {},
    'mmdet/dyhead/atss_r50_fpn_dyhead_1x_coco': {},
}  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'expected'),
    [*DAILY.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items())],
)
def test_families_of_models(name, expected):
    found = swapped(name)
    assert found.prediction_error is None
    for key, value in expected.items():
        path = tuple(int(step) if step.isdigit() else step for step in key.split('.'))
        assert at(found.model, path) == value, key


@pytest.mark.slow
def test_channels_that_cannot_change_are_kept_and_a_fault_of_the_toolbox_is_none_of_ours():
    found = swapped('mmdet/ssd/ssd300_coco')
    assert found.model['backbone']['out_indices'] == (1, 2)
    assert found.model['backbone']['out_channels'] == (512, 1024)
    assert found.model['neck'] == model_of('mmdet/ssd/ssd300_coco')['neck']
    # SSD of these versions of mmdet has no loss_cls, which its prediction asks for.
    assert 'loss_cls' in found.prediction_error


def with_neck(kind, **options):
    """Return a segmenter whose only head reads a neck."""
    model = model_of(SEGMENTER)
    model['neck'] = dict(type=kind, **options)
    model['auxiliary_head'] = None
    model['decode_head'] |= dict(in_channels=32, in_index=0, channels=8)
    return model


@MODELS.register_module()
class HardWired(nn.Module):
    """A neck whose channels cannot be set, and which only trains."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(512, 32, 1)

    def forward(self, features):
        if not self.training:
            raise RuntimeError('only trains')
        return (self.conv(features[-1]),)


def test_hard_wired_channels_are_kept_and_what_the_original_cannot_do_is_no_fault_of_ours():
    found = swap_model(with_neck('HardWired'), 'mmseg', OPTIONS)
    assert found.model['backbone']['out_channels'] == (512,)
    assert found.model['backbone']['out_strides'] == (8,)
    assert found.prediction_error == 'RuntimeError: only trains'


@MODELS.register_module()
class PlainViT(nn.Module):
    """One map of stride 16, as of a plain ViT."""

    def __init__(self, dim=24):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 16, 16)

    def forward(self, x):
        return (self.embed(x),)


@MODELS.register_module()
class SimplePyramid(nn.Module):
    """A pyramid made of one map, as in ViTDet; it takes the map bare."""

    def __init__(self, channels=256, num_outs=5, norm_cfg=None):
        super().__init__()
        self.proj = nn.Conv2d(24, channels, 1)
        self.num_outs = num_outs

    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        x = self.proj(x)
        finer = [nn.functional.interpolate(x, scale_factor=scale) for scale in (4, 2)]
        coarser = [nn.functional.max_pool2d(x, scale) for scale in (2, 4)]
        return (*finer, x, *coarser)[: self.num_outs]


def test_a_neck_that_makes_a_pyramid_is_left_out_or_becomes_an_fpn():
    model = with_neck('SimplePyramid', channels=32, num_outs=4)
    model['backbone'] = dict(type='PlainViT')
    model['decode_head'] |= dict(in_index=3)
    found = swap_model(model, 'mmseg', OPTIONS)
    assert found.model['neck'] is None
    assert found.model['decode_head']['in_channels'] == WIDTHS[3]
    norm = dict(type='BN')
    model = model_of(DETECTOR)
    model |= dict(backbone=dict(type='PlainViT'), neck=dict(type='SimplePyramid', norm_cfg=norm))
    found = swap_model(model, 'mmdet', OPTIONS)
    assert found.model['neck'] == dict(
        type='FPN', in_channels=WIDTHS, out_channels=256, num_outs=5, norm_cfg=norm
    )
    assert 'pyramid' in found.remarks[('neck',)]


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        (
            'mmseg/pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
            '3 maps in training and 1 in test',
        ),
        ('mmseg/san/san-vit-b16_coco-stuff164k-640x640', 'it has no backbone'),
        pytest.param(
            'mmdet/detectors/detectors_htc-r50_1x_coco',
            'gives the image itself',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'mmseg/dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512',
            'something else than maps',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_swapped_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=reason):
        swapped(name)


@pytest.mark.parametrize(
    ('backbone', 'reason'),
    [
        (dict(type='Hiera', arch=SLIM), 'it has Hiera already'),
        (dict(type='NoSuchNet'), 'backbone NoSuchNet cannot be built'),
    ],
)
def test_backbones_that_cannot_be_swapped(backbone, reason):
    with pytest.raises(ConfigError, match=reason):
        swap_model({**model_of(DETECTOR), 'backbone': backbone}, 'mmdet', OPTIONS)


def test_a_loss_that_is_not_finite_is_no_success():
    model = model_of(SEGMENTER)
    model['decode_head']['loss_decode']['loss_weight'] = float('nan')
    with pytest.raises(ConfigError, match='losses are not finite'):
        swap_model(model, 'mmseg', OPTIONS)


@MODELS.register_module()
class Reading(nn.Module):
    """A neck that asks for both maps of the dilated ResNet, and reads some without a gradient."""

    def __init__(self, in_channels=(256, 512), read=(0, 1)):
        super().__init__()
        assert len(in_channels) == 2
        self.convs = nn.ModuleList(nn.Conv2d(dim, 32, 1) for dim in in_channels)
        self.read = read

    def forward(self, features):
        maps = [conv(x.detach()) for conv, x in zip(self.convs, features, strict=True)]
        for place in self.read:
            maps[place] = self.convs[place](features[place])
        return (sum(maps),)


def reading(*places):
    model = with_neck('Reading', in_channels=[256, 512], read=places)
    model['backbone']['out_indices'] = (2, 3)
    return model


def test_a_backbone_without_gradients_is_no_success():
    with pytest.raises(ConfigError, match='no gradient reaches backbone'):
        swap_model(reading(), 'mmseg', OPTIONS)


def test_an_output_that_must_be_there_and_is_not_read_is_told():
    found = swap_model(reading(1), 'mmseg', OPTIONS)
    assert found.unread
    assert found.model['neck']['in_channels'] == WIDTHS[2:]
    assert not swap_model(reading(0, 1), 'mmseg', OPTIONS).unread
