_base_ = './cascade-mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.85))
