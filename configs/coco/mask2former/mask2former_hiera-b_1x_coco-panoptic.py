_base_ = './mask2former_hiera-t_1x_coco-panoptic.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)
