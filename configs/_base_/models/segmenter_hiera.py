# What all segmenters here have in common: how pixels come in, and Hiera-T.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(type='Hiera', arch='tiny', drop_path_rate=0.1),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
