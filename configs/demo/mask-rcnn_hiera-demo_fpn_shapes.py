# A slim Mask R-CNN that learns in minutes on two cores.
#
# To train on your own COCO-format data, change `data_root` and `classes` (and the four paths
# below them, if your folders have other names). docs/own_data.md walks through it.
_base_ = ['../_base_/models/mask-rcnn_hiera_fpn.py', '../_base_/runtime_mmdet.py']

data_root = 'data/shapes/'
classes = ('disc', 'box', 'triangle', 'star', 'ring', 'cross')
train_images = 'images/training/'
train_annotations = 'annotations/instances_training.json'
val_images = 'images/validation/'
val_annotations = 'annotations/instances_validation.json'

# Model: the backbone at a third of Hiera-T's width, heads to match. What differs from a Mask R-CNN
# for COCO besides sizes is there because the training is short: batch norm in neck and mask head,
# and one box regressor for all classes.
num_classes = len(classes)
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, num_heads=1, depths=(1, 1, 2, 1)),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4]),  # objects here are smaller than COCO's
    ),
    roi_head=dict(
        # A box goes to the first level below 2 * 24 pixels, to the second below 4 * 24, ...
        bbox_roi_extractor=dict(out_channels=64, finest_scale=24),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            num_classes=num_classes,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=24),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

# Data. Sides in pixels, the longest and the shortest at most. Small images train fast; a little
# larger ones show where boxes end.
train_scale = (160, 128)
test_scale = (176, 144)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=train_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=test_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file=train_annotations,
        data_prefix=dict(img=train_images),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True, min_size=4),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file=val_annotations,
        data_prefix=dict(img=val_images),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=data_root + val_annotations, metric=['bbox', 'segm']
)
test_evaluator = val_evaluator

# Schedule: the rate rises for 40 iterations, then falls along a cosine. The heads learn fast; the
# backbone and the two large fully connected layers do not bear such a rate.
max_iters = 720
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys={'backbone': dict(lr_mult=0.15), 'shared_fcs': dict(lr_mult=0.075)}
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=40, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=80),
)
log_processor = dict(window_size=20, by_epoch=False)
randomness = dict(seed=0)
