_base_ = './dino-4scale_hiera-t_8xb2-12e_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)
