# Drop path by size: Table 14b of the paper (T, S), Table 15 (B, B+, L).
_base_ = [
    '../../_base_/models/mask2former_hiera_ade20k.py',
    '../../_base_/datasets/ade20k_mask2former_512x512.py',
    '../../_base_/schedules/adamw_mask2former.py',
    '../../_base_/schedules/160k_mask2former.py',
    '../../_base_/runtime_mmseg.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)

custom_imports = dict(imports=['hiera_mm', 'mmdet.models'])  # in this order
