_base_ = './mask2former_hiera-t_8xb2-lsj-50e_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    panoptic_head=dict(in_channels=[144, 288, 576, 1152]),
)
