# The paper's training on COCO: 100 epochs in batches of 64, counted in iterations. Optimiser and
# length are of appendix A.2 and Table 15; what they leave open follows ViTDet (arXiv 2203.16527),
# as they say. The rate is that of B and B+.
max_iters = 184375
val_interval = 5000
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=val_interval,
    # The last evaluation comes after the last iteration.
    dynamic_intervals=[(max_iters // val_interval * val_interval + 1, max_iters)],
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # No decay_rate: the paper found no use for layer-wise decay here.
    constructor='HieraOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=3.5e-5, betas=(0.9, 0.999), weight_decay=0.1),
)
param_scheduler = [
    # ViTDet says how long the warm-up is; where it starts is our choice, that of the 1x schedule.
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[163889, 177546],  # 88.9% and 96.3%
        gamma=0.1,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
