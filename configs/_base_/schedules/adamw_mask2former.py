# Mask2Former's AdamW, for a batch of 16: the backbone learns at a tenth of the rate, in all layers
# alike, and embeddings and norms have no weight decay.
embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='HieraOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=1.0),
            query_embed=embedding,
            query_feat=embedding,
            level_embed=embedding,
        ),
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
