_base_ = './segformer_hiera-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='release://small/mae_in1k'),
    ),
)
