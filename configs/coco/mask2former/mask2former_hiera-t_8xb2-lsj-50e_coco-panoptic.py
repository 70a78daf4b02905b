# Drop path by size: Table 14b of the paper (T, S), Table 15 (B, B+, L).
_base_ = [
    '../../_base_/models/mask2former_hiera_coco-panoptic.py',
    '../../_base_/datasets/coco_panoptic_lsj.py',
    '../../_base_/schedules/adamw_mask2former.py',
    '../../_base_/schedules/50e_mask2former.py',
    '../../_base_/runtime_mmdet_iters.py',
]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            # In training every image fills the whole square.
            dict(
                type='BatchFixedSizePad',
                size=(1024, 1024),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=True,
                seg_pad_value=255,
            ),
        ],
    ),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)
