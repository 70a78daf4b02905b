_base_ = './mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='sam2_base_plus',
        init_cfg=dict(type='Pretrained', checkpoint='sam2.1://base_plus'),
    ),
    neck=dict(in_channels=[112, 224, 448, 896]),
)
