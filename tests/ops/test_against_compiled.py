"""Our kernels beside the compiled ones, on random inputs. Runs where mmcv is a compiled one."""

import importlib

import pytest
import torch
from torch.nn.functional import conv2d

import hiera_mm.ops
from hiera_mm.ops.kernels import KERNELS

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(hiera_mm.ops.source() != 'compiled', reason='needs a compiled mmcv'),
]
EMPTY = torch.zeros(0)


@pytest.fixture
def compare():
    """Call both functions of a name; what they return and what they fill must be the same."""
    extension = importlib.import_module('mmcv._ext')

    def call(name, *args, atol=0.0, **settings):
        results = []
        for function in (KERNELS[name], getattr(extension, name)):
            copies = [arg.clone() for arg in args]
            results.append([function(*copies, **settings), *copies])
        torch.testing.assert_close(*results, rtol=0, atol=atol)

    return call


@pytest.fixture
def scores():
    """Make distinct scores: the compiled NMS orders equal ones at random."""
    return lambda count: torch.randperm(count) / count


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('offset', [0, 1])
def test_suppression(compare, random_boxes, scores, seed, offset):
    torch.manual_seed(seed)
    boxes = random_boxes(150)
    for each in (boxes, boxes.div(8).round()):  # whole pixels overlap by exactly the threshold
        for threshold in (0.3, 0.5, 0.6, 0.7):
            compare('nms', each, scores(150), iou_threshold=threshold, offset=offset)
    dets = torch.cat([boxes, scores(150)[:, None]], 1)
    compare('nms_match', dets, iou_threshold=0.3)

    tied_scores, settings = torch.rand(150).mul(20).round() / 20, dict(iou_threshold=0.4, sigma=0.5)
    settings |= dict(min_score=0.05, offset=offset, atol=1e-6)
    for method in (0, 1, 2):
        inputs = (boxes.round(), tied_scores, torch.zeros(150, 5))
        compare('softnms', *inputs, method=method, **settings)


@pytest.mark.parametrize('mode', [0, 1])
@pytest.mark.parametrize('aligned', [False, True])
def test_bbox_overlaps(compare, random_boxes, mode, aligned):
    inputs = random_boxes(30), random_boxes(30), torch.zeros(30) if aligned else torch.zeros(30, 30)
    compare('bbox_overlaps', *inputs, mode=mode, aligned=aligned, offset=1, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('pool_mode', [0, 1])
def test_roi_align(random_rois, pool_mode, aligned, sampling_ratio, dtype):
    features, rois = torch.randn(2, 3, 11, 17, dtype=dtype), random_rois(40, 2, dtype)
    grad = torch.randn(40, 3, 5, 4, dtype=dtype)
    settings = dict(aligned_height=5, aligned_width=4, spatial_scale=0.25, aligned=aligned)
    settings |= dict(sampling_ratio=sampling_ratio, pool_mode=pool_mode)
    results = []
    for functions in (KERNELS, vars(importlib.import_module('mmcv._ext'))):
        # Each keeps what it likes about the largest samples.
        output, argmax_y, argmax_x = (torch.zeros_like(grad) for _ in range(3))
        functions['roi_align_forward'](features, rois, output, argmax_y, argmax_x, **settings)
        gradient = torch.zeros_like(features)
        functions['roi_align_backward'](grad, rois, argmax_y, argmax_x, gradient, **settings)
        results.append((output, gradient))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(*results, rtol=0, atol=tolerance)


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(
    ('stride', 'pad', 'dilation', 'group', 'deformable_group'),
    [(1, 1, 1, 1, 1), (2, 0, 1, 2, 1), (1, 2, 2, 1, 4), (2, 1, 1, 4, 2)],
)
def test_deformable_convolution(compare, stride, pad, dilation, group, deformable_group, whole):
    features, weight = torch.randn(4, 8, 9, 11), torch.randn(8, 8 // group, 3, 3)
    output = conv2d(features, weight, None, stride, pad, dilation, group)
    offset = torch.randn(4, deformable_group * 18, *output.shape[2:]) * 2
    if whole:
        offset = offset.round()  # many taps exactly at the edges
    mask, bias = torch.rand_like(offset[:, ::2]), torch.randn(8)
    grad, both = torch.randn_like(output), dict(group=group, deformable_group=deformable_group)
    plain = dict(kW=3, kH=3, dW=stride, dH=stride, padW=pad, padH=pad, im2col_step=2)
    plain |= dict(dilationW=dilation, dilationH=dilation, atol=1e-3) | both
    compare('deform_conv_forward', features, weight, offset, output, EMPTY, EMPTY, **plain)
    inputs = features, offset, grad
    gradients = features * 0, offset * 0
    compare('deform_conv_backward_input', *inputs, *gradients, weight, EMPTY, **plain)
    inputs += weight * 0, EMPTY, EMPTY
    compare('deform_conv_backward_parameters', *inputs, scale=0.5, **plain)

    settings = dict(kernel_h=3, kernel_w=3, stride_h=stride, stride_w=stride, pad_h=pad, pad_w=pad)
    settings |= dict(dilation_h=dilation, dilation_w=dilation) | both
    for each in (bias, EMPTY):
        compare_modulated(compare, features, weight, each, offset, mask, output, settings)


def compare_modulated(compare, features, weight, bias, offset, mask, output, settings):
    """Compare the result of a modulated deformable convolution and its five gradients."""
    inputs = features, weight, bias, EMPTY, offset, mask
    settings = settings | dict(with_bias=bias.numel() > 0, atol=1e-3)
    compare('modulated_deform_conv_forward', *inputs, output, EMPTY, **settings)
    results = [tensor * 0 for tensor in (features, weight, bias, offset, mask)]
    inputs += EMPTY, *results, torch.randn_like(output)
    compare('modulated_deform_conv_backward', *inputs, **settings)


def test_offsets_of_a_finer_level(compare):
    """DyHead gives offsets of twice the size of the output."""
    features, weight, bias = torch.randn(2, 8, 5, 6), torch.randn(8, 8, 3, 3), torch.randn(8)
    offset, mask = torch.randn(2, 18, 10, 12), torch.rand(2, 9, 10, 12)
    settings = dict(kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, pad_h=1, pad_w=1)
    settings |= dict(dilation_h=1, dilation_w=1, group=1, deformable_group=1)
    compare_modulated(compare, features, weight, bias, offset, mask, features * 0, settings)


@pytest.mark.parametrize('psa_type', [0, 1])
def test_psamask(compare, psa_type):
    masks, output = torch.randn(2, 15, 4, 6), torch.zeros(2, 24, 4, 6)
    settings = dict(psa_type=psa_type, num_=2, h_feature=4, w_feature=6)
    settings |= dict(h_mask=3, w_mask=5, half_h_mask=1, half_w_mask=2)
    compare('psamask_forward', masks, output, **settings)
    compare('psamask_backward', torch.randn_like(output), masks * 0, **settings)
