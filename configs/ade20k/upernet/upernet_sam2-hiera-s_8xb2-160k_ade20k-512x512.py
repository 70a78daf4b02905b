_base_ = './upernet_hiera-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='sam2_small',
        init_cfg=dict(type='Pretrained', checkpoint='sam2.1://small'),
    ),
)
