_base_ = './mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='sam2_large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='sam2.1://large'),
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
