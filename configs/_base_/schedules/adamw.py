# AdamW for a batch of 16. Rate and weight decay are those with which mmdet trains Swin and mmseg an
# MAE: our choice, since the paper has none for these schedules. All layers learn at one rate, as
# the paper found best for detection (appendix A.2). Segmenters decay it from block to block, by
# the size of the backbone: `optim_wrapper = dict(paramwise_cfg=dict(decay_rate=...))`.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='HieraOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),  # in the heads; the backbone's never decay
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
