# Large-scale jitter: an image is scaled by 0.1 to 2.0 times what fits in 1024x1024 pixels, and cut
# to that size (appendix A.2 and Table 15 of the paper; Mask2Former does the same). These are the
# steps between loading and packing; data sets with `_lsj` in their name put them there.
image_size = (1024, 1024)
lsj = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_size=image_size,
        crop_type='absolute',
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    # What the crop leaves nothing of
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
]
