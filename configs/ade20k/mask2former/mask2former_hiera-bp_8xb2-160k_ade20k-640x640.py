_base_ = './mask2former_hiera-b_8xb2-160k_ade20k-640x640.py'

model = dict(
    backbone=dict(
        arch='base_plus',
        init_cfg=dict(type='Pretrained', checkpoint='release://base_plus/mae_in1k'),
    ),
    decode_head=dict(in_channels=[112, 224, 448, 896]),
)
