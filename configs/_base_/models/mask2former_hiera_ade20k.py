# Mask2Former on the four stages of Hiera-T, as a segmenter. `mmdet.models` has its parts, and must
# be imported after `hiera_mm`, which supplies their operators where mmcv has none. Images are not
# padded in testing, since the backbone takes any size: the head would give every crop of
# `mode='slide'` the size of the padded image.
_base_ = ['./segmenter_hiera.py', './mask2former_parts.py']

num_classes = 150

model = dict(
    decode_head=dict(
        _base_.mask2former_head,
        num_classes=num_classes,
        align_corners=False,
        loss_cls=dict(
            _base_.mask2former_head.loss_cls,
            class_weight=[1.0] * num_classes + [0.1],  # the last one is "no object"
        ),
        train_cfg=_base_.mask2former_matching,
    ),
)
