# Drop path for 12 epochs: _base_/schedules/12e.py says why.
_base_ = [
    '../../_base_/models/cascade-mask-rcnn_hiera_fpn.py',
    '../../_base_/datasets/coco_instance.py',
    '../../_base_/schedules/adamw.py',
    '../../_base_/schedules/12e.py',
    '../../_base_/runtime_mmdet.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)
