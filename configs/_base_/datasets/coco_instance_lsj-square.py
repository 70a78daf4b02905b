# COCO with its boxes and masks, with large-scale jitter for training, and whole images in the same
# 1024x1024 pixels for testing, as ViTDet does (arXiv 2203.16527).
_base_ = './coco_instance_lsj.py'

resize = dict(type='Resize', scale=_base_.image_size, keep_ratio=True)
test_pipeline = [resize if step.type == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
