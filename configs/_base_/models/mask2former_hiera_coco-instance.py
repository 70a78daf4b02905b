# Mask2Former on the four stages of Hiera-T, for the 80 kinds of things of COCO.
_base_ = ['./detector_hiera.py', './mask2former_parts.py']

num_things_classes = 80
num_stuff_classes = 0

model = dict(
    type='Mask2Former',
    data_preprocessor=dict(pad_mask=True, mask_pad_value=0),
    panoptic_head=dict(
        _base_.mask2former_head,
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_cls=dict(
            _base_.mask2former_head.loss_cls,
            class_weight=[1.0] * num_things_classes + [0.1],  # the last one is "no object"
        ),
    ),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead',
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_panoptic=None,
        init_cfg=None,
    ),
    train_cfg=_base_.mask2former_matching,
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
