# COCO with its boxes at many sizes, as DETR and its successors train: half of the images are
# cropped in between.
_base_ = './coco_detection.py'

resize = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in range(480, 801, 32)],
    keep_ratio=True,
)
crop = [
    # 4200 is no limit: no image of COCO is that long beside its shorter side.
    dict(
        type='RandomChoiceResize',
        scales=[(side, 4200) for side in (400, 500, 600)],
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=(384, 600),
        allow_negative_crop=True,
    ),
]
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[resize], [*crop, resize]]),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline)
)
