# ADE20K in crops of 640x640 pixels, scaled as Mask2Former does it: the shorter side to between half
# and twice the crop's, in steps.
_base_ = './ade20k_640x640.py'

resize = dict(
    type='RandomChoiceResize',
    scales=[_base_.crop_size[0] * tenths // 10 for tenths in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=4 * _base_.crop_size[0],
)
train_pipeline = [resize if step.type == 'RandomResize' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
