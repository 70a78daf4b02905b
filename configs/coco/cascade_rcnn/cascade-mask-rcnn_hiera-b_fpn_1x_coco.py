_base_ = './cascade-mask-rcnn_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)
