_base_ = './faster-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='release://small/mae_in1k'),
    ),
)
