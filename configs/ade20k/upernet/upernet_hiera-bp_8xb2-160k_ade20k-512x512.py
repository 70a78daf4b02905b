_base_ = './upernet_hiera-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base_plus',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://base_plus/mae_in1k'),
    ),
    decode_head=dict(in_channels=[112, 224, 448, 896]),
    auxiliary_head=dict(in_channels=448),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
