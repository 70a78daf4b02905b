_base_ = './mask-rcnn_hiera-b_fpn_16xb4-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        arch='large_windowed',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5))  # Table 15
