# What the paper's two-stage detectors have beyond mmdet's (appendix A.2): two hidden convolutions
# in the RPN, four in each RoI head, and LayerNorm after each of them. Configs put these parts over
# those of a detector, and import `hiera_mm.detection.heads`, which has LN2d and NormedRPNHead.
#
# One thing stays ours: the backbone splits its position embedding into windows and the rest when
# it resizes it ('window_aligned'), where the paper resized it whole. `pos_embed='absolute'` in
# the backbone does as the paper did.
norm_cfg = dict(type='LN2d', eps=1e-6)  # our choice: the epsilon of the backbone's own norms
paper_rpn_head = dict(type='NormedRPNHead', num_convs=2, norm_cfg=norm_cfg)
paper_bbox_head = dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm_cfg)
paper_mask_head = dict(num_convs=4, norm_cfg=norm_cfg)
