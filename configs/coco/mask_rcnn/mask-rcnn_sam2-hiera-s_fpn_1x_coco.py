_base_ = './mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='sam2_small',
        init_cfg=dict(type='Pretrained', checkpoint='sam2.1://small'),
    ),
)
