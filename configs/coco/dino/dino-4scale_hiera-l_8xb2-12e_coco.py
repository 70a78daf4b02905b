_base_ = './dino-4scale_hiera-t_8xb2-12e_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    neck=dict(in_channels=[288, 576, 1152]),
)
