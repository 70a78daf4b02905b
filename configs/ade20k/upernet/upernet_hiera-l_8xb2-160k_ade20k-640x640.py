_base_ = './upernet_hiera-b_8xb2-160k_ade20k-640x640.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    decode_head=dict(in_channels=[144, 288, 576, 1152]),
    auxiliary_head=dict(in_channels=576),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.85))
