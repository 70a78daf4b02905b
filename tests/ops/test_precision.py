"""All operators in half precision, under autocast, and without anything to do."""

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

MAPS = (2, 4, 9, 13)
ROIS = torch.tensor([[0.0, 3, 5, 30, 29], [1, -8, 2, 60, 20], [1, 12, 12, 13, 30]])
SHAPES, STARTS = torch.tensor([[5, 7], [3, 4]]), torch.tensor([0, 35])
OPERATORS = {  # with their operands, those that are a shape drawn at random
    'roi_align': (mmcv.ops.RoIAlign(7, 0.25), MAPS, ROIS),
    'roi_align_max': (mmcv.ops.RoIAlign(7, 0.25, 0, 'max'), MAPS, ROIS),
    'roi_pool': (mmcv.ops.RoIPool(7, 0.25), MAPS, ROIS),
    'deform_conv': (
        lambda *operands: mmcv.ops.deform_conv2d(*operands, 1, 1),
        MAPS, (2, 18, 9, 13), (3, 4, 3, 3),
    ),
    'modulated_deform_conv': (
        lambda *operands: mmcv.ops.modulated_deform_conv2d(*operands, 1, 1),
        MAPS, (2, 18, 9, 13), (2, 9, 9, 13), (3, 4, 3, 3), (3,),
    ),
    'attention': (
        lambda value, *others: MultiScaleDeformableAttnFunction.apply(
            value, SHAPES.to(value.device), STARTS.to(value.device), *others, 64
        ),
        (2, 47, 2, 3), (2, 4, 2, 2, 3, 2), (2, 4, 2, 2, 3),
    ),
    'sigmoid_focal_loss': (
        lambda *operands: mmcv.ops.sigmoid_focal_loss(*operands, 2.0, 0.25, None, 'none'),
        (50, 4), torch.arange(50) % 5,
    ),
    'carafe': (lambda *maps: mmcv.ops.carafe(*maps, 3, 1, 2), MAPS, (2, 9, 18, 26)),
    'psa_mask': (mmcv.ops.PSAMask('collect', (3, 5)), (2, 15, 9, 13)),
}  # fmt: skip


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', OPERATORS)
def test_half_precision_is_float32_rounded(device, name, dtype):
    operator, *operands = OPERATORS[name]
    operands = [torch.randn(each) if isinstance(each, tuple) else each for each in operands]
    results, grad = [], None
    half = [each.to(device, dtype if each.is_floating_point() else None) for each in operands]
    for inputs in (half, [each.float() if each.is_floating_point() else each for each in half]):
        inputs[0].requires_grad_()
        result = operator(*inputs)
        if grad is None:
            grad = torch.randn_like(result)
        result.backward(grad.to(result.dtype))
        assert result.dtype == inputs[0].grad.dtype == inputs[0].dtype
        results.append((result, inputs[0].grad))
    (found, gradient), expected = results[0], [each.to(dtype) for each in results[1]]
    assert torch.equal(found, expected[0])
    torch.testing.assert_close(gradient, expected[1])


@pytest.mark.usefixtures('stand_in_only')
def test_regions_may_be_more_precise_than_features():
    features = torch.randn(MAPS).bfloat16()
    result = mmcv.ops.roi_align(features, ROIS, 7, 0.25)
    assert torch.equal(result, mmcv.ops.roi_align(features.float(), ROIS, 7, 0.25).bfloat16())


@pytest.mark.usefixtures('stand_in_only')
@pytest.mark.parametrize(
    'layer',
    [
        mmcv.ops.DeformConv2dPack(4, 6, 3, padding=1),
        mmcv.ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1),
        mmcv.ops.CARAFEPack(channels=4, scale_factor=2),
    ],
    ids=['deform', 'modulated', 'carafe'],
)
def test_layers_train_under_autocast(device, layer):
    layer = layer.to(device)
    features = torch.randn(2, 4, 8, 8, device=device, requires_grad=True)
    expected = layer(features)
    with torch.autocast(device.type, torch.bfloat16):
        result = layer(features)
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    result.float().square().sum().backward()
    for each in (features, *layer.parameters()):
        assert each.grad.isfinite().all()
        assert each.grad.any()


@pytest.mark.parametrize(
    ('operator', 'shape', 'others', 'result'),
    [
        (mmcv.ops.RoIAlign((2, 3)), (2, 3, 5, 5), (0, 5), (0, 3, 2, 3)),
        (mmcv.ops.RoIAlign((2, 3), pool_mode='max'), (2, 3, 5, 5), (0, 5), (0, 3, 2, 3)),
        (mmcv.ops.RoIPool((2, 3)), (2, 3, 5, 5), (0, 5), (0, 3, 2, 3)),
        (mmcv.ops.SigmoidFocalLoss(2.0, 0.25, None, 'sum'), (0, 3), (0,), ()),
        (mmcv.ops.SoftmaxFocalLoss(2.0, 0.25, None, 'sum'), (0, 3), (0,), ()),
        (
            lambda *maps: mmcv.ops.carafe(*maps, 3, 1, 2),
            (0, 4, 5, 5),
            (0, 9, 10, 10),
            (0, 4, 10, 10),
        ),
    ],
)
def test_nothing_to_do_is_no_trouble(operator, shape, others, result):
    inputs, others = torch.randn(shape, requires_grad=True), torch.zeros(others)
    found = operator(inputs, others.long() if others.dim() == 1 else others)
    assert found.shape == result
    assert not found.any()
    found.sum().backward()
    assert inputs.grad.shape == shape
    assert not inputs.grad.any()
