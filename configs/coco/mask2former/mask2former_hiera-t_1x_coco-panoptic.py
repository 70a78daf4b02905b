# Drop path for 12 epochs: _base_/schedules/12e.py says why.
_base_ = [
    '../../_base_/models/mask2former_hiera_coco-panoptic.py',
    '../../_base_/datasets/coco_panoptic.py',
    '../../_base_/schedules/adamw_mask2former.py',
    '../../_base_/schedules/12e.py',
    '../../_base_/runtime_mmdet.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)
