# Drop path by size: Table 14b of the paper (T, S), Table 15 (B, B+, L). Layer-wise decay by size:
# Table 14b, where the paper fine-tunes on ImageNet. Using it here is our choice.
_base_ = [
    '../../_base_/models/upernet_hiera.py',
    '../../_base_/datasets/ade20k_512x512.py',
    '../../_base_/schedules/adamw.py',
    '../../_base_/schedules/160k.py',
    '../../_base_/runtime_mmseg.py',
]

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k')),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.65))
