"""Our kernels beside the compiled ones, on random inputs. Runs where mmcv is a compiled one."""

import importlib

import pytest
import torch

import hiera_mm.ops
from hiera_mm.ops.kernels import KERNELS

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(hiera_mm.ops.source() != 'compiled', reason='needs a compiled mmcv'),
]


@pytest.fixture
def both():
    """Call a function of both; give the arguments after the calls, or what the calls return."""
    extension = importlib.import_module('mmcv._ext')

    def call(name, *args, **kwargs):
        results = []
        for function in (KERNELS[name], getattr(extension, name)):
            copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
            results.append((function(*copies, **kwargs), copies))
        return results

    return call


@pytest.fixture
def scores():
    """Make distinct scores: the compiled NMS orders equal ones at random."""
    return lambda count: torch.randperm(count) / count


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('whole_pixels', [False, True])
def test_nms(both, random_boxes, scores, seed, whole_pixels):
    torch.manual_seed(seed)
    boxes = random_boxes(150)
    if whole_pixels:
        boxes = boxes.div(8).round()  # many overlaps of exactly the threshold
    for threshold in (0.3, 0.5, 0.6, 0.7):
        for offset in (0, 1):
            settings = dict(iou_threshold=threshold, offset=offset)
            (ours, _), (compiled, _) = both('nms', boxes, scores(150), **settings)
            assert torch.equal(ours, compiled)


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('method', [0, 1, 2])
def test_soft_nms(both, random_boxes, seed, method):
    torch.manual_seed(seed)
    boxes, tied_scores = random_boxes(100).round(), torch.rand(100).mul(20).round() / 20
    for offset in (0, 1):
        (ours, (_, _, our_dets)), (compiled, (_, _, dets)) = both(
            'softnms',
            boxes,
            tied_scores,
            torch.zeros(100, 5),
            iou_threshold=0.4,
            sigma=0.5,
            min_score=0.05,
            method=method,
            offset=offset,
        )
        assert torch.equal(ours, compiled)
        torch.testing.assert_close(our_dets, dets, rtol=0, atol=1e-6)


@pytest.mark.parametrize('seed', range(20))
def test_nms_match(both, random_boxes, scores, seed):
    torch.manual_seed(seed)
    dets = torch.cat([random_boxes(100), scores(100)[:, None]], 1)
    (ours, _), (compiled, _) = both('nms_match', dets, iou_threshold=0.3)
    assert ours == compiled


@pytest.mark.parametrize('mode', [0, 1])
@pytest.mark.parametrize('aligned', [False, True])
def test_bbox_overlaps(both, random_boxes, mode, aligned):
    ious = torch.zeros(30) if aligned else torch.zeros(30, 30)
    settings = dict(mode=mode, aligned=aligned, offset=1)
    ours, compiled = both('bbox_overlaps', random_boxes(30), random_boxes(30), ious, **settings)
    torch.testing.assert_close(ours[1][2], compiled[1][2])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('pool_mode', [0, 1])
def test_roi_align(both, random_rois, pool_mode, aligned, sampling_ratio, dtype):
    features, rois = torch.randn(2, 3, 11, 17, dtype=dtype), random_rois(40, 2, dtype)
    grad = torch.randn(40, 3, 5, 4, dtype=dtype)
    settings = dict(
        aligned_height=5,
        aligned_width=4,
        spatial_scale=0.25,
        sampling_ratio=sampling_ratio,
        pool_mode=pool_mode,
        aligned=aligned,
    )
    results = []
    for functions in (KERNELS, vars(importlib.import_module('mmcv._ext'))):
        output, argmax_y, argmax_x = (torch.zeros_like(grad) for _ in range(3))
        functions['roi_align_forward'](features, rois, output, argmax_y, argmax_x, **settings)
        gradient = torch.zeros_like(features)
        functions['roi_align_backward'](grad, rois, argmax_y, argmax_x, gradient, **settings)
        results.append((output, gradient))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(*results, rtol=0, atol=tolerance)


GEOMETRIES = [(1, 1, 1, 1, 1), (2, 0, 1, 2, 1), (1, 2, 2, 1, 4), (2, 1, 1, 4, 2)]


@pytest.mark.parametrize(('stride', 'pad', 'dilation', 'group', 'deformable_group'), GEOMETRIES)
def test_deform_conv(both, stride, pad, dilation, group, deformable_group):
    features, weight = torch.randn(4, 8, 9, 11), torch.randn(8, 8 // group, 3, 3)
    output = torch.nn.functional.conv2d(features, weight, None, stride, pad, dilation, group)
    offset = torch.randn(4, deformable_group * 18, *output.shape[2:]) * 2
    settings = dict(kW=3, kH=3, dW=stride, dH=stride, padW=pad, padH=pad)
    settings |= dict(dilationW=dilation, dilationH=dilation, group=group)
    settings |= dict(deformable_group=deformable_group, im2col_step=2)
    empty, grad = torch.zeros(0), torch.randn_like(output)
    for name, args, results in (
        ('forward', (features, weight, offset, output, empty, empty), [3]),
        (
            'backward_input',
            (features, offset, grad, features * 0, offset * 0, weight, empty),
            [3, 4],
        ),
        ('backward_parameters', (features, offset, grad, weight * 0, empty, empty), [3]),
    ):
        if name == 'backward_parameters':
            settings['scale'] = 0.5
        ours, compiled = both(f'deform_conv_{name}', *args, **settings)
        for result in results:
            torch.testing.assert_close(ours[1][result], compiled[1][result], rtol=0, atol=1e-3)


def compare_modulated(both, operands, output, settings):
    """Compare the result of a modulated deformable convolution and its five gradients."""
    features, weight, bias, offset, mask = operands
    inputs, empty = (features, weight, bias, torch.zeros(0), offset, mask), torch.zeros(0)
    ours, compiled = both('modulated_deform_conv_forward', *inputs, output, empty, **settings)
    torch.testing.assert_close(ours[1][6], compiled[1][6], rtol=0, atol=1e-3)
    gradients = [tensor * 0 for tensor in (features, weight, bias, offset, mask)]
    ours, compiled = both(
        'modulated_deform_conv_backward',
        *(*inputs, empty, *gradients, torch.randn_like(output)),
        **settings,
    )
    for result in range(7, 12):
        torch.testing.assert_close(ours[1][result], compiled[1][result], rtol=0, atol=1e-3)


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize(('stride', 'pad', 'dilation', 'group', 'deformable_group'), GEOMETRIES)
def test_modulated_deform_conv(both, stride, pad, dilation, group, deformable_group, with_bias):
    features, weight = torch.randn(4, 8, 9, 11), torch.randn(8, 8 // group, 3, 3)
    output = torch.nn.functional.conv2d(features, weight, None, stride, pad, dilation, group)
    offset = torch.randn(4, deformable_group * 18, *output.shape[2:]) * 2
    mask = torch.rand(4, deformable_group * 9, *output.shape[2:])
    bias = torch.randn(8) if with_bias else torch.zeros(0)
    settings = dict(kernel_h=3, kernel_w=3, stride_h=stride, stride_w=stride, pad_h=pad, pad_w=pad)
    settings |= dict(dilation_h=dilation, dilation_w=dilation, group=group)
    settings |= dict(deformable_group=deformable_group, with_bias=with_bias)
    compare_modulated(both, (features, weight, bias, offset, mask), output, settings)


def test_offsets_of_a_finer_level(both):
    """DyHead gives offsets of twice the size of the output."""
    features, weight = torch.randn(2, 8, 5, 6), torch.randn(8, 8, 3, 3)
    output = torch.empty(2, 8, 5, 6)
    offset, mask = torch.randn(2, 18, 10, 12), torch.rand(2, 9, 10, 12)
    bias = torch.randn(8)
    settings = dict(kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, pad_h=1, pad_w=1)
    settings |= dict(dilation_h=1, dilation_w=1, group=1, deformable_group=1, with_bias=True)
    compare_modulated(both, (features, weight, bias, offset, mask), output, settings)


@pytest.mark.parametrize('psa_type', [0, 1])
def test_psamask(both, psa_type):
    masks, output = torch.randn(2, 15, 4, 6), torch.zeros(2, 24, 4, 6)
    settings = dict(psa_type=psa_type, num_=2, h_feature=4, w_feature=6)
    settings |= dict(h_mask=3, w_mask=5, half_h_mask=1, half_w_mask=2)
    ours, compiled = both('psamask_forward', masks, output, **settings)
    assert torch.equal(ours[1][1], compiled[1][1])
    ours, compiled = both('psamask_backward', torch.randn_like(output), masks * 0, **settings)
    assert torch.equal(ours[1][1], compiled[1][1])
