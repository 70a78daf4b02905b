import pytest

from hiera_mm.swap.settings import (
    MEAN,
    STD,
    drop_old_weights,
    drop_path_of,
    normalise_as_hiera,
    train_as_transformer,
)

DECODED = dict(type='LoadImageFromFile')


def trained(scope='mmdet', *, arch='base', has_weights=True, **cfg):
    remarks = {}
    train_as_transformer(cfg, scope, arch, has_weights=has_weights, remarks=remarks)
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
def test_weights_are_fine_tuned_layer_by_layer(arch, rate):
    cfg, _ = trained(arch=arch, optim_wrapper=sgd(paramwise_cfg=dict(norm_decay_mult=0.0)))
    wrapper = cfg['optim_wrapper']
    assert wrapper['constructor'] == 'HieraOptimWrapperConstructor'
    assert wrapper['paramwise_cfg'] == dict(decay_rate=rate, norm_decay_mult=0.0)


def test_no_layer_wise_decay_from_a_random_start():
    cfg, remarks = trained(has_weights=False, optim_wrapper=sgd())
    assert cfg['optim_wrapper']['constructor'] == 'HieraOptimWrapperConstructor'
    assert 'paramwise_cfg' not in cfg['optim_wrapper']
    assert 'at random' in remarks[('optim_wrapper', 'constructor')]


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        # Slowed already: not twice. Another constructor's options: gone.
        (
            dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
            dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
        ),
        (
            dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6, bias_lr_mult=2),
            dict(decay_rate=0.7, bias_lr_mult=2),
        ),
    ],
)
def test_options_of_the_old_constructor(before, after):
    wrapper = sgd(constructor='LearningRateDecayOptimizerConstructor', paramwise_cfg=before)
    cfg, _ = trained(optim_wrapper=wrapper)
    assert cfg['optim_wrapper']['constructor'] == 'HieraOptimWrapperConstructor'
    assert cfg['optim_wrapper']['paramwise_cfg'] == after


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


def normalised(model, scope='mmdet', **cfg):
    cfg = dict(model=model, **cfg)
    normalise_as_hiera(cfg, scope, remarks := {})
    return cfg, remarks


def test_images_are_normalised_as_hiera_saw_them():
    caffe = dict(type='DetDataPreprocessor', mean=[103, 116, 123], std=[1, 1, 1])
    caffe['pad_size_divisor'] = 16
    cfg, _ = normalised(dict(data_preprocessor=caffe))
    assert cfg['model']['data_preprocessor'] == dict(
        type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32
    )


def test_the_inner_preprocessor_of_several_is_changed():
    inner = dict(type='DetDataPreprocessor', rgb_to_bgr=True)
    model = dict(
        data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=inner),
        reid=dict(data_preprocessor=dict(type='ClsDataPreprocessor')),
    )
    cfg, _ = normalised(model)
    found = cfg['model']['data_preprocessor']
    assert set(found) == {'type', 'data_preprocessor'}
    assert found['data_preprocessor']['mean'] == MEAN
    assert found['data_preprocessor']['rgb_to_bgr'] is False
    assert cfg['model']['reid']['data_preprocessor'] == dict(type='ClsDataPreprocessor')


def test_what_is_right_stays():
    right = dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True, size=(64, 64))
    cfg, remarks = normalised(dict(data_preprocessor=dict(right)), 'mmseg')
    assert cfg['model']['data_preprocessor'] == right
    assert remarks == {}


def test_a_preprocessor_beside_the_model_counts_and_a_missing_one_is_made():
    beside = dict(type='SegDataPreProcessor')
    cfg, _ = normalised(dict(), 'mmseg', data_preprocessor=beside)
    assert cfg['data_preprocessor']['mean'] == MEAN
    assert cfg['model'] == {}
    cfg, _ = normalised(dict())
    assert cfg['model']['data_preprocessor']['type'] == 'DetDataPreprocessor'


def test_images_that_are_loaded_as_rgb_are_not_turned():
    loaded = dict(DECODED, channel_order='rgb')
    cfg, _ = normalised(
        dict(data_preprocessor=dict(type='DetDataPreprocessor', bgr_to_rgb=False)),
        train_pipeline=[loaded],
    )
    assert cfg['model']['data_preprocessor']['bgr_to_rgb'] is False


def test_images_of_other_channels_are_left_as_they_are():
    model = dict(backbone=dict(in_channels=25), data_preprocessor=dict(type='SegDataPreProcessor'))
    cfg, _ = normalised(model, 'mmseg')
    assert cfg['model'] == model
    assert cfg['model']['data_preprocessor'] == dict(type='SegDataPreProcessor')


@pytest.mark.parametrize(('arch', 'rate'), [('tiny', 0.1), ('sam2_base_plus', 0.2), ('huge', 0.3)])
def test_drop_path_by_size(arch, rate):
    assert drop_path_of(arch) == rate
