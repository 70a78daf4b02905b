_base_ = './mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
