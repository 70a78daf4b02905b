# ADE20K in crops of 640x640 pixels; tested whole, with the shorter side at 640.
_base_ = './ade20k_512x512.py'

crop_size = (640, 640)
image_scale = (4 * crop_size[0], crop_size[0])
sizes = dict(
    RandomResize=dict(scale=image_scale),
    RandomCrop=dict(crop_size=crop_size),
    Resize=dict(scale=image_scale),
)
train_pipeline = [dict(step, **sizes.get(step.type, {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **sizes.get(step.type, {})) for step in _base_.test_pipeline]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(step, scale=tuple(side * 640 // 512 for side in step.scale))
                for step in _base_.tta_pipeline[1].transforms[0]
            ],
            *_base_.tta_pipeline[1].transforms[1:],
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
