# Drop path by size: Table 14b of the paper (T, S), Table 15 (B, B+, L). Layer-wise decay by size:
# Table 14b, where the paper fine-tunes on ImageNet. Using it here is our choice.
_base_ = [
    '../../_base_/models/faster-rcnn_hiera_fpn.py',
    '../../_base_/datasets/coco_detection.py',
    '../../_base_/schedules/adamw_layer-decay.py',
    '../../_base_/schedules/12e.py',
    '../../_base_/runtime_mmdet.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.65))
