# 12 epochs (1x), with the warm-up that mmdet gives Swin.
#
# Drop path keeps a network from learning its images by heart, for which 12 epochs are short. The
# paper's 0.2 (B, B+) and 0.4 (L) on COCO are for 100 epochs (Table 15), so the configs of 12 take
# what it takes to fine-tune a classifier (Table 14b): 0.1, and 0.2 for L.
max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
