_base_ = './mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base_plus',
        init_cfg=dict(type='Pretrained', checkpoint='release://base_plus/mae_in1k'),
    ),
    neck=dict(in_channels=[112, 224, 448, 896]),
)
