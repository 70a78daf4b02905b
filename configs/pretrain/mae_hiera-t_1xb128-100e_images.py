# Goes on from the release's Hiera-T on your own images, with a single GPU. For another size, change
# arch and checkpoint; to begin from nothing, init_cfg=None. docs/mae.md has more.
_base_ = [
    '../_base_/models/hiera-mae.py',
    '../_base_/datasets/unlabelled_224.py',
    '../_base_/schedules/400e_mae.py',
    '../_base_/runtime_pretrain.py',
]

model = dict(init_cfg=dict(type='Pretrained', checkpoint='release://tiny/mae_in1k'))
train_dataloader = dict(batch_size=128)

# The paper has no recipe for so few images; rate and length are our choice.
max_epochs = 100
warmup_epochs = 5
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1.5e-4))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=128)
