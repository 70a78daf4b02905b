# Pretrains the demo's small Hiera without labels, in minutes on two cores.
#
# For your own images: `tools/pretrain.py configs/pretrain/mae_hiera-demo_shapes.py --images DIR`.
_base_ = [
    '../_base_/models/hiera-mae.py',
    '../_base_/schedules/400e_mae.py',
    '../_base_/runtime_pretrain.py',
]

# Model: the backbone of the demo's detector and segmenter, and a decoder to match.
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=32, num_heads=1, depths=(1, 1, 2, 1))),
    decoder_embed_dim=96,
    decoder_depth=2,
    decoder_num_heads=3,
)

# Data
data_root = 'data/shapes/images/training/'
train_scale = (160, 128)  # width and height, multiples of 32
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomAreaCrop', scale=train_scale, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='UnlabelledImages', data_root=data_root, pipeline=train_pipeline),
)

# Schedule: as the paper's, but short, with the rate that so small a network bears.
max_iters = 4500
warmup_iters = 200
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
