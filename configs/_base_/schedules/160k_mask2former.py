# 160,000 iterations as Mask2Former trains them: no warm-up, and a power of 0.9.
_base_ = './160k.py'

param_scheduler = [
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=_base_.max_iters, by_epoch=False),
]
