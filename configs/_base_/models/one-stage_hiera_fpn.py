# What detectors of one stage share: a pyramid on the last three stages of Hiera-T and two levels
# more, and heads with four convolutions and focal loss. They start at stride 8 and never look at
# the first stage, which is therefore no output: its norm would get no gradient.
_base_ = './detector_hiera.py'

model = dict(
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(type='FPN', in_channels=[192, 384, 768], out_channels=256, start_level=0, num_outs=5),
    bbox_head=dict(
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    ),
    train_cfg=dict(allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, max_per_img=100),
)
