# Hiera-B as at 512x512, in larger crops.
_base_ = [
    '../../_base_/models/sem-fpn_hiera.py',
    '../../_base_/datasets/ade20k_640x640.py',
    '../../_base_/schedules/adamw.py',
    '../../_base_/schedules/160k.py',
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
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
