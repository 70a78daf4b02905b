import pytest

from hiera_mm.swap.settings import (
    MEAN,
    STD,
    drop_old_weights,
    drop_path_of,
    normalise_as_hiera,
    train_as_transformer,
)
from hiera_mm.trial.configs import copied


def trained(scope='mmdet', *, arch='base', name='', has_weights=True, **cfg):
    remarks = {}
    train_as_transformer(cfg, scope, arch, name=name, has_weights=has_weights, remarks=remarks)
    return cfg, remarks


def sgd(**options):
    return dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9), **options)


@pytest.mark.parametrize(
    ('scope', 'batch', 'rate', 'decay'),
    [('mmdet', None, 1e-4, 0.05), ('mmdet', 64, 4e-4, 0.05), ('mmseg', None, 6e-5, 0.01)],
)
def test_another_optimiser_becomes_adamw(scope, batch, rate, decay):
    scale = {} if batch is None else dict(auto_scale_lr=dict(base_batch_size=batch))
    cfg, remarks = trained(scope, optim_wrapper=sgd(clip_grad=dict(max_norm=1)), **scale)
    optimizer = cfg['optim_wrapper']['optimizer']
    assert optimizer == dict(type='AdamW', lr=rate, betas=(0.9, 0.999), weight_decay=decay)
    assert cfg['optim_wrapper']['clip_grad'] == dict(max_norm=1)
    assert f'a batch of {batch or 16}' in remarks[('optim_wrapper', 'optimizer')]


@pytest.mark.parametrize(
    ('samples', 'steps', 'name', 'batch', 'base'),
    [
        (2, 1, 'mine', 2, 2),
        (2, 4, 'mine', 8, 2),
        # Of the toolboxes' names that tell the GPUs, those that speak of the same samples.
        (2, 1, 'pspnet_r50-d8_4xb2-80k_ade20k', 8, 8),
        (3, 1, 'pspnet_r50-d8_4xb2-80k_ade20k', 3, 3),
    ],
)
def test_the_rate_follows_the_real_batch_where_the_config_names_none(
    samples, steps, name, batch, base
):
    cfg, remarks = trained(
        name=name,
        optim_wrapper=sgd(accumulative_counts=steps),
        train_dataloader=dict(batch_size=samples),
    )
    assert cfg['optim_wrapper']['optimizer']['lr'] == pytest.approx(1e-4 * batch / 16)
    assert cfg['auto_scale_lr'] == dict(enable=False, base_batch_size=base)
    assert f'a batch of {batch} (' in remarks[('optim_wrapper', 'optimizer')]


@pytest.mark.parametrize(('rate', 'becomes'), [(1e-4, 1e-4), (2e-4, 2e-4), (4e-3, 1e-4)])
def test_adamw_stays_unless_it_is_much_too_fast(rate, becomes):
    optimizer = dict(type='AdamW', lr=rate, weight_decay=0.1)
    schedule = [dict(type='PolyLR', eta_min=rate / 10)]
    cfg, _ = trained(optim_wrapper=dict(optimizer=optimizer), param_scheduler=schedule)
    assert cfg['optim_wrapper']['optimizer'] == dict(type='AdamW', lr=becomes, weight_decay=0.1)
    assert cfg['param_scheduler'][-1]['eta_min'] == pytest.approx(becomes / 10)
    assert (len(cfg['param_scheduler']) == 2) == (rate != becomes)


def test_the_schedule_follows_the_rate():
    # A minimum above the new rate would let it rise.
    poly = dict(type='PolyLR', eta_min=1e-3, power=0.9, begin=0, end=100, by_epoch=False)
    cfg, remarks = trained('mmseg', optim_wrapper=sgd(), param_scheduler=[dict(poly)])
    warm_up, after = cfg['param_scheduler']
    assert after == {**poly, 'eta_min': pytest.approx(3e-6)}
    assert warm_up == dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500)
    assert 'warm-up' in remarks[('param_scheduler',)]


@pytest.mark.parametrize('kind', ['LinearLR', 'mmdet.QuadraticWarmupLR', 'ConstantLR'])
def test_a_schedule_that_warms_up_stays(kind):
    schedule = [dict(type=kind, end=500), dict(type='MultiStepLR', milestones=[8, 11])]
    cfg, _ = trained(optim_wrapper=sgd(), param_scheduler=[dict(item) for item in schedule])
    assert cfg['param_scheduler'] == schedule


@pytest.mark.parametrize(
    ('arch', 'rate'),
    [('tiny', 0.65), ('base_plus', 0.7), ('sam2_large', 0.85), ('small_abswin', 0.65)],
)
def test_segmenters_are_fine_tuned_layer_by_layer_and_detectors_are_not(arch, rate):
    others = dict(norm_decay_mult=0.0)
    found = layer_wise(copied(others), arch=arch, scope='mmseg')
    assert found == dict(decay_rate=rate, **others)
    assert layer_wise(copied(others), arch=arch, scope='mmdet') == others


def layer_wise(before, **options):
    cfg, _ = trained(
        optim_wrapper=sgd(constructor='LearningRateDecay', paramwise_cfg=before), **options
    )
    assert cfg['optim_wrapper']['constructor'] == 'HieraOptimWrapperConstructor'
    return cfg['optim_wrapper'].get('paramwise_cfg')


def test_no_layer_wise_decay_from_a_random_start_or_of_a_backbone_that_is_slowed_already():
    assert layer_wise(None, scope='mmseg', has_weights=False) is None
    slowed = dict(custom_keys={'backbone': dict(lr_mult=0.1)})
    assert layer_wise(copied(slowed), scope='mmseg') == slowed


def test_a_random_start_is_not_slowed():
    keys = {'backbone': dict(lr_mult=0.1, decay_mult=1.0), 'query_embed': dict(lr_mult=0.1)}
    assert layer_wise(dict(custom_keys=copied(keys)), has_weights=False) == dict(
        custom_keys={**keys, 'backbone': dict(decay_mult=1.0)}
    )


def test_options_of_the_old_constructor_go():
    old = dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6, bias_lr_mult=2)
    assert layer_wise(old, scope='mmseg') == dict(decay_rate=0.7, bias_lr_mult=2)


def test_what_is_not_trained_has_no_schedule():
    assert trained(model=dict())[0] == dict(model=dict())


def test_old_weights_go_and_are_named():
    cfg = dict(
        load_from='whole.pth',
        model=dict(
            pretrained='a.pth',
            init_cfg=dict(type='Pretrained', checkpoint='b.pth'),
            backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='c.pth')),
            detector=dict(
                backbone=dict(type='ResNet', pretrained='d.pth'),
                init_cfg=[dict(type='Pretrained', checkpoint='e.pth')],
            ),
            reid=dict(init_cfg=dict(type='Pretrained', checkpoint='kept.pth')),
            neck=dict(init_cfg=dict(type='Xavier')),
        ),
    )
    assert set(drop_old_weights(cfg)) == {'whole.pth', 'a.pth', 'b.pth', 'c.pth', 'd.pth', 'e.pth'}
    assert cfg['load_from'] is None
    assert cfg['model']['pretrained'] is None
    assert cfg['model']['init_cfg'] is None
    assert cfg['model']['detector']['init_cfg'] is None
    assert cfg['model']['reid']['init_cfg'] == dict(type='Pretrained', checkpoint='kept.pth')
    assert cfg['model']['neck']['init_cfg'] == dict(type='Xavier')


RIGHT = dict(mean=MEAN, std=STD, bgr_to_rgb=True)
DET, SEG = dict(type='DetDataPreprocessor'), dict(type='SegDataPreProcessor')
KEY = 'data_preprocessor'
PERSONS = {KEY: dict(type='ClsDataPreprocessor')}


@pytest.mark.parametrize(
    ('scope', 'before', 'after'),
    [
        # Of a config, the data preprocessor.
        (
            'mmdet',
            dict(DET, mean=[103, 116, 123], std=[1, 1, 1], pad_size_divisor=16),
            dict(DET, **RIGHT, pad_size_divisor=32),
        ),
        ('mmseg', dict(SEG, **RIGHT, size=(64, 64)), dict(SEG, **RIGHT, size=(64, 64))),
        ('mmdet', None, dict(DET, **RIGHT, pad_size_divisor=32)),
        # The inner one of several.
        (
            'mmdet',
            dict(type='MultiBranch', data_preprocessor=dict(DET, rgb_to_bgr=True)),
            dict(
                type='MultiBranch',
                data_preprocessor=dict(DET, **RIGHT, rgb_to_bgr=False, pad_size_divisor=32),
            ),
        ),
    ],
)
def test_images_are_normalised_as_hiera_saw_them(scope, before, after):
    model = dict(reid=copied(PERSONS)) | ({} if before is None else {KEY: copied(before)})
    remarks = {}
    normalise_as_hiera(cfg := dict(model=model), scope, remarks)
    assert cfg == dict(model={'reid': PERSONS, KEY: after})
    assert bool(remarks) == (before != after)


def test_a_preprocessor_beside_the_model_counts():
    cfg = dict(model=dict(), data_preprocessor=dict(SEG))
    normalise_as_hiera(cfg, 'mmseg', {})
    assert cfg == dict(model=dict(), data_preprocessor=dict(SEG, **RIGHT))


def test_images_in_rgb_are_not_turned_and_those_of_other_channels_are_left_as_they_are():
    loading = dict(type='LoadImageFromFile', channel_order='rgb')
    cfg = dict(model=dict(data_preprocessor=dict(SEG)), train_pipeline=[loading])
    normalise_as_hiera(cfg, 'mmseg', {})
    assert cfg['model']['data_preprocessor']['bgr_to_rgb'] is False
    cfg = dict(model=dict(backbone=dict(in_channels=25), data_preprocessor=dict(SEG)))
    normalise_as_hiera(cfg, 'mmseg', {})
    assert cfg['model']['data_preprocessor'] == SEG


@pytest.mark.parametrize(
    ('arch', 'long', 'short'),
    [('tiny', 0.1, 0.1), ('sam2_base_plus', 0.2, 0.1), ('huge', 0.3, 0.2), ('large', 0.4, 0.2)],
)
def test_drop_path_by_size_and_length_of_the_training(arch, long, short):
    assert drop_path_of(arch, 'mmdet', dict(train_cfg=dict(max_epochs=100))) == long
    assert drop_path_of(arch, 'mmdet', dict(train_cfg=dict(max_epochs=12))) == short
    repeated = dict(dataset=dict(type='RepeatDataset', times=4))
    cfg = dict(train_cfg=dict(max_epochs=25), train_dataloader=repeated)
    assert drop_path_of(arch, 'mmdet', cfg) == long
    assert drop_path_of(arch, 'mmseg', dict(train_cfg=dict(max_iters=40000))) == long
    assert drop_path_of(arch, 'mmdet', dict(model=dict())) == long
