# A slim UPerNet that learns in minutes on two cores.
#
# To train on your own label maps, change `data_root` and `classes` (and the four folders below
# them, if yours have other names). docs/own_data.md walks through it.
_base_ = ['../_base_/models/upernet_hiera.py', '../_base_/runtime_mmseg.py']

data_root = 'data/shapes/'
# In a label map 0 means unlabelled and i + 1 the i-th class, as in ADE20K.
classes = ('ground', 'sky', 'disc', 'box', 'triangle', 'star', 'ring', 'cross')
train_images = 'images/training/'
train_annotations = 'annotations/training/'
val_images = 'images/validation/'
val_annotations = 'annotations/validation/'

# Model: the backbone at a third of Hiera-T's width, heads to match.
num_classes = len(classes)
crop_size = (128, 128)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, num_heads=1, depths=(1, 1, 2, 1)),
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        pool_scales=(2, 4),
        channels=64,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=num_classes, norm_cfg=norm_cfg),
)

# Data
image_scale = (192, 160)  # longest and shortest side at most, in pixels
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path=train_images, seg_map_path=train_annotations),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path=val_images, seg_map_path=val_annotations),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# Schedule: the rate rises for 30 iterations, then falls along a cosine. The heads learn fast;
# the backbone does not bear such a rate.
max_iters = 450
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=30, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=90),
)
log_processor = dict(window_size=20)
randomness = dict(seed=0)
