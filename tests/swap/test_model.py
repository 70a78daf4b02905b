import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from hiera_mm.errors import ConfigError
from hiera_mm.swap import trial
from hiera_mm.swap.find import resolve
from hiera_mm.swap.model import swap_model
from hiera_mm.swap.samples import Kind, make_batch
from hiera_mm.swap.workbench import Workbench

from .conftest import SLIM, WIDTHS

OPTIONS = dict(arch=SLIM)


def model_of(name):
    return Config.fromfile(resolve(name)).model.to_dict()


def swapped(name, **options):
    return swap_model(model_of(name), name.partition('/')[0], {**OPTIONS, **options})


def test_a_detector_with_a_neck():
    found = swapped('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    assert found.model['backbone'] == dict(type='Hiera', arch=SLIM)
    assert found.model['neck']['in_channels'] == WIDTHS
    assert found.model['neck']['out_channels'] == 256
    assert not found.unread
    assert found.prediction_error is None


def test_outputs_that_nobody_reads_are_left_out():
    found = swapped('mmdet/retinanet/retinanet_r50_fpn_1x_coco')
    assert found.model['backbone']['out_indices'] == (1, 2, 3)
    assert found.model['neck']['in_channels'] == WIDTHS[1:]
    assert found.model['neck']['start_level'] == 0


def test_heads_of_a_dilated_backbone_get_its_strides():
    found = swapped('mmseg/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024')
    backbone = found.model['backbone']
    assert backbone['out_indices'] == (2, 3)
    assert backbone['out_strides'] == (8, 8)
    assert found.model['decode_head']['in_channels'] == WIDTHS[3]
    assert found.model['decode_head']['in_index'] == 1
    assert found.model['auxiliary_head']['in_channels'] == WIDTHS[2]
    assert found.model['auxiliary_head']['in_index'] == 0
    assert ('backbone', 'out_strides') in found.remarks


def test_channels_that_cannot_change_are_kept_and_a_fault_of_the_toolbox_is_none_of_ours():
    found = swapped('mmdet/ssd/ssd300_coco')
    assert found.model['backbone']['out_indices'] == (1, 2)
    assert found.model['backbone']['out_channels'] == (512, 1024)
    assert found.model['neck'] == model_of('mmdet/ssd/ssd300_coco')['neck']
    # SSD of these versions of mmdet has no loss_cls, which its prediction asks for.
    assert 'loss_cls' in found.prediction_error


def test_heads_follow_a_neck_that_hands_on_features():
    found = swapped('mmseg/fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024')
    assert found.model['backbone'] == dict(type='Hiera', arch=SLIM, out_indices=(1, 2, 3))
    assert found.model['neck']['in_channels'] == tuple(WIDTHS[1:])
    # The main head reads what the neck makes, which is as before.
    assert found.model['decode_head']['in_channels'] == 2048
    assert found.model['auxiliary_head']['in_channels'] == WIDTHS[2]


def test_heads_inside_heads():
    found = swapped('mmseg/knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512')
    head = found.model['decode_head']
    assert head['kernel_generate_head']['in_channels'] == WIDTHS[3]
    assert head['kernel_update_head'][0]['in_channels'] == 512
    assert 'out_channels' not in found.model['backbone']


@pytest.mark.parametrize(
    ('name', 'masks'),
    [
        # An epoch that a hook sets, norms that need processes, an iteration in a message hub.
        ('tood/tood_r50_fpn_1x_coco', False),
        (
            'strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco',
            True,
        ),
        ('boxinst/boxinst_r50_fpn_ms-90k_coco', False),
    ],
)
def test_models_that_need_what_a_runner_sets(name, masks):
    if 'boxinst' in name:
        pytest.importorskip('skimage')
    model = model_of(f'mmdet/{name}')
    swap_model(model, 'mmdet', OPTIONS, masks=masks)
    trial.run(trial.build(model, 'mmdet'), 'mmdet', Kind(masks=masks), gradients=False)


@pytest.mark.parametrize(
    'name',
    [
        # Operators that test one image at a time, given proposals, large pooling windows, offsets
        # of a finer level.
        'mmdet/guided_anchoring/ga-rpn_r50_fpn_1x_coco',
        'mmdet/fast_rcnn/fast-rcnn_r50_fpn_1x_coco',
        'mmseg/mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024',
        'mmdet/dyhead/atss_r50_fpn_dyhead_1x_coco',
    ],
)
def test_models_that_ask_for_more_than_others(name):
    assert swapped(name).prediction_error is None


PROPOSALS = [('fast_rcnn/fast', True), ('faster_rcnn/faster', False)]


@pytest.mark.parametrize(('name', 'given'), PROPOSALS)
def test_proposals_are_given_to_those_that_make_none(name, given):
    model = trial.build(model_of(f'mmdet/{name}-rcnn_r50_fpn_1x_coco'), 'mmdet')
    batch = make_batch(model, 'mmdet', Kind(), training=False)
    assert all(('proposals' in sample) == given for sample in batch['data_samples'])


def test_a_network_of_several_branches():
    found = swapped('mmseg/bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024')
    assert found.model['backbone']['out_indices'] == (3, 1, 2)
    assert found.model['decode_head']['in_channels'] == WIDTHS[3]


def test_a_neck_that_makes_a_pyramid_is_left_out():
    found = swapped('mmseg/vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512')
    assert found.model['neck'] is None
    assert found.model['backbone'] == dict(type='Hiera', arch=SLIM)
    assert found.model['decode_head']['in_channels'] == WIDTHS


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

    def __init__(self, backbone_channel=24, out_channels=256, norm_cfg=None):
        super().__init__()
        self.proj = nn.Conv2d(backbone_channel, out_channels, 1)

    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        x = self.proj(x)
        finer = [nn.functional.interpolate(x, scale_factor=scale) for scale in (4, 2)]
        coarser = [nn.functional.max_pool2d(x, scale) for scale in (2, 4)]
        return (*finer, x, *coarser)


def test_the_pyramid_of_a_plain_vit_detector_becomes_an_fpn():
    model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    norm = dict(type='BN')
    model['backbone'] = dict(type='PlainViT')
    model['neck'] = dict(type='SimplePyramid', norm_cfg=norm)
    found = swap_model(model, 'mmdet', OPTIONS)
    assert found.model['neck'] == dict(
        type='FPN', in_channels=WIDTHS, out_channels=256, num_outs=5, norm_cfg=norm
    )
    assert 'pyramid' in found.remarks[('neck',)]


@pytest.mark.parametrize(
    'name',
    [
        'mmdet/masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019',
        'mmdet/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco',
    ],
)
def test_trackers_and_semi_supervised_detectors(name):
    found = swapped(name)
    assert found.model['detector']['backbone']['type'] == 'Hiera'
    assert found.model['detector']['neck']['in_channels'] == WIDTHS


def test_a_student_keeps_its_teacher():
    name = 'mmdet/ld/ld_r18-gflv1-r101_fpn_1x_coco'
    found = swapped(name)
    assert found.model['backbone']['type'] == 'Hiera'
    assert found.model['teacher_config'] == model_of(name)['teacher_config']


def test_options_of_the_backbone_and_channels_of_the_image():
    name = 'mmseg/hrnet/fcn_hr18_4xb2-160k_cityscapes-512x1024'
    model = model_of(name)
    model['backbone']['in_channels'] = 5
    model['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(64, 64))
    found = swap_model(model, 'mmseg', {**OPTIONS, 'drop_path_rate': 0.1})
    assert found.model['backbone'] == dict(
        type='Hiera', arch=SLIM, drop_path_rate=0.1, in_channels=5
    )
    assert list(found.model['backbone']) == ['type', 'arch', 'drop_path_rate', 'in_channels']


def test_what_is_given_is_not_changed():
    model = model_of('mmdet/retinanet/retinanet_r50_fpn_1x_coco')
    before = copy.deepcopy(model)
    swap_model(model, 'mmdet', OPTIONS)
    assert model == before


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        (
            'mmseg/pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
            '3 maps in training and 1 in test',
        ),
        ('mmdet/detectors/detectors_htc-r50_1x_coco', 'gives the image itself'),
        ('mmseg/dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512', 'something else than maps'),
        ('mmseg/san/san-vit-b16_coco-stuff164k-640x640', 'it has no backbone'),
    ],
)
def test_what_cannot_be_swapped_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=reason):
        swapped(name)


def test_a_config_that_has_hiera_is_refused():
    model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    model['backbone'] = dict(type='Hiera', arch=SLIM)
    with pytest.raises(ConfigError, match='it has Hiera already'):
        swap_model(model, 'mmdet', OPTIONS)


def test_a_backbone_that_is_not_there_is_named():
    model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    model['backbone'] = dict(type='NoSuchNet')
    with pytest.raises(ConfigError, match='backbone NoSuchNet cannot be built'):
        swap_model(model, 'mmdet', OPTIONS)


def test_a_loss_that_is_not_finite_is_no_success(monkeypatch):
    name = 'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco'
    model = model_of(name)
    model['rpn_head']['loss_cls']['loss_weight'] = float('nan')
    with pytest.raises(ConfigError, match='losses are not finite'):
        swap_model(model, 'mmdet', OPTIONS)


@MODELS.register_module()
class Detaching(nn.Module):
    """A neck that lets no gradient through."""

    def __init__(self, in_channels, out_channels=256):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(dim, out_channels, 1) for dim in in_channels)

    def forward(self, features):
        maps = [conv(x.detach()) for conv, x in zip(self.convs, features, strict=True)]
        return (*maps, maps[-1][:, :, ::2, ::2])


def test_a_backbone_without_gradients_is_no_success():
    model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    model['neck'] = dict(type='Detaching', in_channels=[256, 512, 1024, 2048])
    with pytest.raises(ConfigError, match='no gradient reaches backbone'):
        swap_model(model, 'mmdet', OPTIONS)


@MODELS.register_module()
class Halfway(nn.Module):
    """A neck that asks for all maps and reads the last but one from nobody."""

    def __init__(self, in_channels, out_channels=256):
        super().__init__()
        assert len(in_channels) == 4
        self.convs = nn.ModuleList(nn.Conv2d(dim, out_channels, 1) for dim in in_channels)

    def forward(self, features):
        maps = [conv(x) for conv, x in zip(self.convs, features, strict=True)]
        maps[2] = maps[1][:, :, ::2, ::2]
        return (*maps, maps[-1][:, :, ::2, ::2])


def test_an_output_that_must_be_there_and_is_not_read_is_told():
    model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    model['neck'] = dict(type='Halfway', in_channels=[256, 512, 1024, 2048])
    found = swap_model(model, 'mmdet', OPTIONS)
    assert found.unread
    assert found.model['neck']['in_channels'] == WIDTHS


def test_a_workbench_tries_the_same_model_once(monkeypatch):
    built = []
    build = trial.build
    monkeypatch.setattr(trial, 'build', lambda *args: built.append(args) or build(*args))
    workbench = Workbench()
    for depth in (50, 101):
        model = model_of('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
        model['backbone']['depth'] = depth
        swap_model(model, 'mmdet', OPTIONS, workbench=workbench)
    assert len(built) == 1


def test_a_workbench_remembers_failures_too():
    workbench = Workbench()
    errors = []
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            workbench.emitted(dict(type='NoSuchNet'), 'mmdet')
        errors.append(caught.value)
    assert errors[0] is errors[1]
