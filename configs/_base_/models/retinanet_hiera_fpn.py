# RetinaNet: nine anchors at each place.
_base_ = './one-stage_hiera_fpn.py'

model = dict(
    type='RetinaNet',
    neck=dict(add_extra_convs='on_input'),
    bbox_head=dict(
        type='RetinaHead',
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0]),
        bbox_coder=dict(target_stds=[1.0] * 4),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),  # focal loss takes every anchor
    ),
    test_cfg=dict(nms=dict(type='nms', iou_threshold=0.5)),
)
