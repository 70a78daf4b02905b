# COCO with its panoptic maps, at up to 1333x800 pixels. Needs the package panopticapi.
_base_ = './coco_detection.py'

load_annotations = dict(
    type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True
)
train_pipeline = [
    load_annotations if step.type == 'LoadAnnotations' else step for step in _base_.train_pipeline
]
test_pipeline = [
    load_annotations if step.type == 'LoadAnnotations' else step for step in _base_.test_pipeline
]
train_dataloader = dict(
    dataset=dict(
        type='CocoPanopticDataset',
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(seg='annotations/panoptic_train2017/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CocoPanopticDataset',
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(seg='annotations/panoptic_val2017/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoPanopticMetric',
        ann_file=_base_.data_root + 'annotations/panoptic_val2017.json',
        seg_prefix=_base_.data_root + 'annotations/panoptic_val2017/',
    ),
    dict(
        type='CocoMetric',
        ann_file=_base_.data_root + 'annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
