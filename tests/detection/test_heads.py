"""The RPN head with norms: the order of its layers, its numbers, and a training step."""

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F

from hiera_mm.detection.heads import NormedRPNHead
from hiera_mm.detection.norms import LayerNorm2d

CONFIG = dict(
    in_channels=6,
    feat_channels=8,
    anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[8, 16]),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
    loss_bbox=dict(type='L1Loss'),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=0.3),
        sampler=dict(type='RandomSampler', num=32, pos_fraction=0.5, add_gt_as_proposals=False),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(nms_pre=10, max_per_img=5, nms=dict(type='nms', iou_threshold=0.7)),
)


def make(name='NormedRPNHead', **options):
    register_all_modules(init_default_scope=False)
    config = ConfigDict(dict(CONFIG, type=name, **options))
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(config)
        head.init_weights()
    return head


@pytest.mark.parametrize('num_convs', [1, 2, 3])
def test_each_hidden_convolution_has_its_norm_and_then_its_relu(num_convs):
    head = make(num_convs=num_convs, norm_cfg=dict(type='LN2d', eps=1e-6))
    assert isinstance(head, NormedRPNHead)
    assert len(head.rpn_conv) == num_convs
    for layer in head.rpn_conv:
        assert layer.order == ('conv', 'norm', 'act')
        assert isinstance(layer.norm, LayerNorm2d)
        assert layer.norm.normalized_shape == (8,)
        assert isinstance(layer.activate, nn.ReLU)
        assert layer.conv.bias is None

    x = torch.randn(2, 6, 8, 8)
    y = x
    for layer in head.rpn_conv:
        y = F.conv2d(y, layer.conv.weight, padding=1).permute(0, 2, 3, 1)
        y = F.layer_norm(y, (8,), layer.norm.weight, layer.norm.bias, 1e-6)
        y = y.permute(0, 3, 1, 2).relu()
    scores, deltas = head.forward_single(x)
    torch.testing.assert_close(scores, head.rpn_cls(y))
    torch.testing.assert_close(deltas, head.rpn_reg(y))


@pytest.mark.parametrize('num_convs', [1, 2])
def test_without_a_norm_it_is_the_head_of_mmdet(num_convs):
    ours, theirs = make(num_convs=num_convs), make('RPNHead', num_convs=num_convs)
    assert type(theirs) is RPNHead
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(other.data)
    x = torch.randn(2, 6, 8, 8)
    for mine, other in zip(ours.forward_single(x), theirs.forward_single(x), strict=True):
        torch.testing.assert_close(mine, other)


def test_it_takes_a_training_step():
    head = make(num_convs=2, norm_cfg=dict(type='LN2d'))
    features = [torch.randn(2, 6, side, side, requires_grad=True) for side in (8, 4)]
    objects = [
        InstanceData(bboxes=torch.tensor([[4.0, 4.0, 24.0, 24.0]]), labels=torch.tensor([0]))
    ] * 2
    metas = [dict(img_shape=(64, 64), pad_shape=(64, 64))] * 2
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    totals = []
    for _ in range(10):
        losses = head.loss_by_feat(*head(features), objects, metas)
        total = sum(sum(values) for values in losses.values())
        assert total.isfinite()
        optimizer.zero_grad()
        total.backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    with torch.no_grad():
        boxes = head.predict_by_feat(
            *head(features), batch_img_metas=[dict(meta, scale_factor=(1.0, 1.0)) for meta in metas]
        )
    assert all(len(found) for found in boxes)
