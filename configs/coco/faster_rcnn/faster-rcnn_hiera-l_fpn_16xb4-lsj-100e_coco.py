_base_ = './faster-rcnn_hiera-b_fpn_16xb4-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        arch=dict(
            embed_dim=144,
            num_heads=2,
            depths=(2, 6, 36, 4),
            global_blocks=(23, 33, 43),
        ),
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='release://large/mae_in1k'),
    ),
    neck=dict(in_channels=[144, 288, 576, 1152]),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5))  # Table 15
