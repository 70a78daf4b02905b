_base_ = './mask2former_hiera-t_8xb2-lsj-50e_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='release://small/mae_in1k'),
    ),
)
