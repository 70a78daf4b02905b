# How a detector is run and logged when its training counts iterations and not epochs.
_base_ = './runtime_mmdet.py'

default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
