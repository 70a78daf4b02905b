# 12 epochs as DINO trains them: no warm-up, and one step.
_base_ = './12e.py'

param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=_base_.max_epochs,
        by_epoch=True,
        milestones=[11],
        gamma=0.1,
    ),
]
