# The paper's training on COCO (appendix A.2 and Table 15).
_base_ = [
    '../../_base_/models/mask-rcnn_hiera_fpn.py',
    '../../_base_/models/paper_parts.py',
    '../../_base_/datasets/coco_instance_lsj-square.py',
    '../../_base_/schedules/100e_paper.py',
    '../../_base_/runtime_mmdet_iters.py',
]

model = dict(
    # Pads to the whole square, in testing as in training.
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        arch='base_windowed',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='release://base/mae_in1k'),
    ),
    rpn_head=_base_.paper_rpn_head,
    roi_head=dict(bbox_head=_base_.paper_bbox_head, mask_head=_base_.paper_mask_head),
)

custom_imports = dict(imports=['hiera_mm', 'hiera_mm.detection.heads'])
