"""Models of the toolboxes, built without weights and tried on a made-up batch."""

import pytest
import torch
from mmengine.config import Config

from hiera_mm.errors import ConfigError
from hiera_mm.trial.batches import make_batch, processed_batch
from hiera_mm.trial.configs import read, resolve
from hiera_mm.trial.models import build, try_out

DETECTOR = 'mmdet/rpn/rpn_r50_fpn_1x_coco'
SEGMENTER = 'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024'


def model_of(name):
    return Config.fromfile(resolve(name)).model.to_dict()


def test_a_model_gives_losses_and_a_prediction():
    shown = try_out(model_of(DETECTOR), 'mmdet', gradients=False)
    assert set(shown.losses) == {'loss', 'loss_rpn_cls', 'loss_rpn_bbox'}
    assert shown.prediction_error is None


def test_heads_that_shrink_maps_many_times_get_larger_images():
    model = model_of('mmseg/mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024')
    assert try_out(model, 'mmseg', gradients=False).losses['loss'] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'masks'),
    [
        # An epoch that a hook sets, norms that need processes, an iteration in a message hub.
        ('tood/tood_r50_fpn_1x_coco', False),
        (
            'strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco',
            True,
        ),
        ('boxinst/boxinst_r50_fpn_ms-90k_coco', False),
    ],
)
def test_models_that_need_what_a_runner_sets(name, masks):
    if 'boxinst' in name:
        pytest.importorskip('skimage')
    try_out(model_of(f'mmdet/{name}'), 'mmdet', masks=masks, gradients=False)


@pytest.mark.parametrize(
    ('name', 'given'),
    [
        ('mmdet/fast_rcnn/fast-rcnn_r50_fpn_1x_coco', True),
        ('mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco', False),
    ],
)
def test_proposals_are_given_to_those_that_make_none(name, given):
    model = build(model_of(name), 'mmdet')
    batch = make_batch(model, 'mmdet', (128, 128), training=False)
    assert ['proposals' in sample for sample in batch['data_samples']] == [given]


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTER])
def test_images_of_any_height_and_width(name):
    cfg = read(name)
    model = build(cfg.model, cfg.default_scope).train()
    data = processed_batch(model, cfg, (64, 96), count=2, training=True)
    assert data['inputs'].shape == (2, 3, 64, 96)
    losses = model.parse_losses(model(**data, mode='loss'))[1]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_models_of_several_views_are_refused(tmp_path):
    file = tmp_path / 'clip.py'
    file.write_text("model = dict()\ndefault_scope = 'mmdet'")

    class Model(torch.nn.Module):
        data_preprocessor = type('TrackDataPreprocessor', (), {})()

    with pytest.raises(ConfigError, match='several views or frames'):
        processed_batch(Model(), Config.fromfile(file), (64, 64))
