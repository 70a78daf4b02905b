_base_ = './faster-rcnn_hiera-b_fpn_16xb4-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        arch='base_plus_windowed',
        init_cfg=dict(type='Pretrained', checkpoint='release://base_plus/mae_in1k'),
    ),
    neck=dict(in_channels=[112, 224, 448, 896]),
)
