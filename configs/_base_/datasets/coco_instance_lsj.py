# COCO with its boxes and masks: large-scale jitter for training, up to 1333x800 pixels for testing.
_base_ = ['./coco_instance.py', './lsj.py']

train_pipeline = [*_base_.train_pipeline[:2], *_base_.lsj, _base_.train_pipeline[-1]]
train_dataloader = dict(
    # Training counts iterations, and all images end up in one shape.
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline),
)
