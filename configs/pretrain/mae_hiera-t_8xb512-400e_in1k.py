_base_ = [
    '../_base_/models/hiera-mae.py',
    '../_base_/datasets/unlabelled_224.py',
    '../_base_/schedules/400e_mae.py',
    '../_base_/runtime_pretrain.py',
]

train_dataloader = dict(batch_size=512)
