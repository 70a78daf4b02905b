# DINO's AdamW, for a batch of 16: the backbone learns at a tenth of the rate, in all layers alike.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='HieraOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
