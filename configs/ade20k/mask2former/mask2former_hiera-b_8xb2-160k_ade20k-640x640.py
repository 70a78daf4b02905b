# Hiera-B as at 512x512, in larger crops.
_base_ = [
    '../../_base_/models/mask2former_hiera_ade20k.py',
    '../../_base_/datasets/ade20k_mask2former_640x640.py',
    '../../_base_/schedules/adamw_mask2former.py',
    '../../_base_/schedules/160k_mask2former.py',
    '../../_base_/runtime_mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)

custom_imports = dict(imports=['hiera_mm', 'mmdet.models'])  # in this order
