_base_ = './atss_hiera-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
