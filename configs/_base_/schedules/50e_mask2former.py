# Mask2Former's 50 epochs of COCO in batches of 16, counted in iterations.
max_iters = 368750
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
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[327778, 355092],
        gamma=0.1,
    ),
]
