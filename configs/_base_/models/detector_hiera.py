# What all detectors here have in common: how pixels come in, and Hiera-T.
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='Hiera', arch='tiny', drop_path_rate=0.1),
)
