# Every image in a folder and below it: `tools/pretrain.py CONFIG --images DIR`.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomAreaCrop', scale=224, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='UnlabelledImages', data_root='data/imagenet/train/', pipeline=train_pipeline
    ),
)
