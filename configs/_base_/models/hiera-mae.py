# A masked autoencoder of Hiera-T with the paper's decoder (arXiv 2306.00989, Table 14a).
model = dict(
    type='HieraMAE',
    data_preprocessor=dict(
        type='ImgDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='Hiera', arch='tiny', drop_path_rate=0.0),
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    mask_ratio=0.6,
)
