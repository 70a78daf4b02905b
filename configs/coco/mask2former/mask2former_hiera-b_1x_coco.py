_base_ = './mask2former_hiera-t_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)
