# Mask2Former on the four stages of Hiera-T, for COCO's 80 kinds of things and 53 of stuff. It
# predicts instances too, from the same queries.
_base_ = './mask2former_hiera_coco-instance.py'

num_stuff_classes = 53
num_classes = _base_.num_things_classes + num_stuff_classes

model = dict(
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    panoptic_head=dict(
        num_stuff_classes=num_stuff_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(num_stuff_classes=num_stuff_classes),
    test_cfg=dict(panoptic_on=True),
)
