"""The masked autoencoder beside the release's, which nobody here wrote."""

from __future__ import annotations

import pytest
import torch

from hiera_mm.backbone import Hiera
from hiera_mm.errors import CheckpointError, ConfigError
from hiera_mm.pretrain import HieraMAE, mae
from hiera_mm.pretrain.mae import patches, unpatch

DECODER = dict(decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2)


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(mae, 'print_log', lambda line, **_: lines.append(line))
    return lines


def small(arch, **options):
    return HieraMAE(dict(type='Hiera', arch=arch, **options.pop('backbone', {})), **DECODER,
                    **options)  # fmt: skip


def released(arch, **options):
    from hiera import hiera_mae

    model = getattr(hiera_mae, f'mae_hiera_{arch}_224')(pretrained=False, **options)
    for parameter in model.parameters():  # zeros and ones would hide what is mixed up
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    'arch', ['tiny', pytest.param('base_plus', marks=pytest.mark.slow)]
)  # fmt: skip
def test_it_is_the_releases(arch):
    """Loss, predictions, labels and all gradients, in float64."""
    theirs = released(arch).double()
    ours = HieraMAE(dict(type='Hiera', arch=arch)).double()
    names = {name.removeprefix('backbone.'): name for name in ours.state_dict()}
    ours.load_state_dict({names[name]: tensor for name, tensor in theirs.state_dict().items()})
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    mask = theirs.get_random_mask(images, 0.6).bool()

    loss, predictions, labels, _ = theirs(images, mask=mask)
    output = ours.forward_mae(images, mask)
    assert output.mask.equal(mask)
    assert output.loss.item() == pytest.approx(loss.item(), abs=1e-9)
    torch.testing.assert_close(output.predictions.flatten(0, 1), predictions, rtol=0, atol=1e-9)
    torch.testing.assert_close(output.labels.flatten(0, 1), labels, rtol=0, atol=1e-9)

    loss.backward()
    output.loss.backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        found = gradients[names[name]].grad
        torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-9)


def test_masked_pixels_reach_nothing_but_the_labels(small_arch):
    """Other pixels in masked units change no prediction, though the kernels reach over the edge."""
    model = small(small_arch).eval()
    images = torch.randn(2, 3, 96, 160)
    output = model.forward_mae(images)
    pixels = output.mask.view(2, 1, 3, 5).repeat_interleave(32, 2).repeat_interleave(32, 3)
    changed = torch.where(pixels, images, torch.randn_like(images))
    again = model.forward_mae(changed, output.mask)
    torch.testing.assert_close(again.predictions, output.predictions)
    assert not torch.allclose(again.labels, output.labels)


@pytest.mark.parametrize('pos_embed', ['absolute', 'absolute_win', 'absolute_win_recursive'])
@pytest.mark.parametrize('size', [(32, 64), (96, 160), (224, 224)])
def test_any_size_and_position_embedding(small_arch, size, pos_embed):
    model = small(small_arch, backbone=dict(pos_embed=pos_embed))
    images = torch.randn(2, 3, *size)
    output = model.forward_mae(images, mask_ratio=0.5)
    units = size[0] * size[1] // 32**2
    assert output.mask.shape == (2, units)
    assert output.mask.sum(1).tolist() == [units // 2] * 2
    assert output.predictions.shape == output.labels.shape == (2, 4 * (units - units // 2), 768)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(unpatch(patches(images), (size[0] // 32, size[1] // 32)), images)


def test_masks_differ_between_images_and_draws(small_arch):
    model = small(small_arch)
    images = torch.randn(4, 3, 224, 224)
    first, second = (model.draw_mask(images)[0] for _ in range(2))
    assert first.sum(1).tolist() == [19] * 4  # as the release: int(49 * 0.4)
    assert not first.equal(second)
    assert len(first.unique(dim=0)) == 4
    assert model.draw_mask(images[..., :160], mask_ratio=0.8)[1].shape == (4, 7)  # of 35


def test_windows_of_several_units_become_global_and_weights_come_back(tmp_path):
    arch = dict(embed_dim=16, num_heads=1, depths=(1, 1, 2, 1), window_sizes=(8, 4, 14, 7))
    model = small(arch, backbone=dict(rel_pos='global', out_norm=dict(type='LN')))
    assert [block.attn.window for block in model.backbone.blocks] == [1, 1, 1, 0, 0]
    assert [block.attn.pool for block in model.backbone.blocks] == [False, True, True, False, False]
    model.forward_mae(torch.randn(1, 3, 128, 96)).loss.backward()

    file = tmp_path / 'mae.pth'
    torch.save({'state_dict': model.state_dict()}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    windowed = Hiera(arch, init_cfg=init_cfg, rel_pos='global')
    windowed.init_weights()
    assert [block.attn.window for block in windowed.blocks] == [1, 1, 1, 7, 7]
    for name, tensor in model.backbone.state_dict().items():
        assert windowed.state_dict()[name].equal(tensor)


def test_a_stage_of_single_units_keeps_its_windows(small_arch):
    model = small({**small_arch, 'depths': (1, 1, 2, 2), 'window_sizes': (8, 4, 2, 0)})
    assert [block.attn.window for block in model.backbone.blocks] == [1, 1, 1, 1, 1, 0]
    assert model.backbone.variant.window_sizes == (8, 4, 2, 0)


def test_the_log_says_that_windows_are_left_out(small_arch, logged):
    small(small_arch)
    assert not logged
    small({**small_arch, 'window_sizes': (8, 4, 14, 7)})
    assert 'leaves out windows of several mask units' in logged[0]


@pytest.mark.peers
def test_a_released_checkpoint_loads_whole_and_another_decoder_is_refused(tmp_path, logged):
    decoder = dict(decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=2)
    theirs = released('tiny', **decoder)
    file = tmp_path / 'mae_hiera_tiny_224.pth'
    torch.save({'model_state': theirs.state_dict()}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    ours = HieraMAE(
        dict(type='Hiera', arch='auto', init_cfg=init_cfg), init_cfg=init_cfg, **decoder
    )
    ours.check_pretrained()
    ours.init_weights()
    assert 'left out' not in logged[-1]
    assert 'not in file' not in logged[-1]
    for name, tensor in ours.state_dict().items():
        assert theirs.state_dict()[name.removeprefix('backbone.')].equal(tensor), name
    images = torch.randn(1, 3, 224, 224)
    mask = ours.draw_mask(images)[0]
    torch.testing.assert_close(ours.forward_mae(images, mask).loss, theirs(images, mask=mask)[0])

    small_one = HieraMAE(dict(type='Hiera', arch='small'), init_cfg=init_cfg, **decoder)
    with pytest.raises(CheckpointError, match=r"this is tiny, and the config says arch='small'"):
        small_one.check_pretrained()
    other = HieraMAE(dict(type='Hiera', arch='tiny'), init_cfg=init_cfg, **DECODER)
    before = [parameter.clone() for parameter in other.parameters()]
    for call in (other.check_pretrained, other.init_weights):
        with pytest.raises(CheckpointError, match=r'another decoder.*backbone\.init_cfg'):
            call()
    assert all(a.equal(b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_decoder_that_computes_nothing_is_refused(tmp_path, small_arch):
    model = small(small_arch)
    model.decoder_pred.bias.data[0] = float('nan')
    torch.save(model.state_dict(), tmp_path / 'mae.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'mae.pth'))
    with pytest.raises(CheckpointError, match=r'NaN.*decoder_pred\.bias'):
        small(small_arch, init_cfg=init_cfg).init_weights()
    small(small_arch, init_cfg=dict(init_cfg, allow_nonfinite=True)).init_weights()


def test_a_checkpoint_without_decoder_starts_the_decoder_anew(tmp_path, small_arch, logged):
    file = tmp_path / 'hiera.pth'
    backbone = Hiera(small_arch, out_norm=None)
    torch.save(backbone.state_dict(), file)
    model = small(small_arch, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    for name, tensor in backbone.state_dict().items():
        assert model.backbone.state_dict()[name].equal(tensor)
    assert 'not in file   3' in logged[-1]


@pytest.mark.parametrize('train', [True, False])
def test_no_graph_break(small_arch, train):
    model = small(small_arch).train(train)
    images = torch.randn(2, 3, 96, 96)
    compiled = torch.compile(model.forward_mae, fullgraph=True, backend='aot_eager')
    torch.manual_seed(1)
    output = compiled(images)
    torch.manual_seed(1)
    expected = model.forward_mae(images)
    torch.testing.assert_close(output.predictions, expected.predictions)
    assert output.mask.equal(expected.mask)


def test_activation_checkpointing_changes_nothing(small_arch):
    models = [small(small_arch, backbone=dict(with_cp=cp)) for cp in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    images, mask = torch.randn(2, 3, 64, 64), torch.tensor([[True, False, False, True]] * 2)
    for model in models:
        model.forward_mae(images, mask).loss.backward()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_as_mmengine_calls_it(small_arch):
    model = small(small_arch)
    data = {'inputs': [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, 'data_samples': [None] * 2}
    found = model._run_forward(model.data_preprocessor(data, True), mode='loss')
    assert set(found) == {'loss'}
    assert found['loss'].dtype == torch.float32
    assert model(torch.randn(1, 3, 64, 64), mode='predict').predictions.shape == (1, 12, 768)


def test_half_precision_keeps_the_loss_precise(small_arch):
    model = small(small_arch)
    with torch.autocast('cpu', torch.bfloat16):
        output = model.forward_mae(torch.randn(2, 3, 64, 64))
    assert output.predictions.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mask_ratio=1.0), 'mask_ratio must be above 0 and below 1'),
        (dict(mask_ratio=0), 'mask_ratio must be above 0 and below 1'),
        (dict(mask_ratio='x'), "got 'x'"),
        (dict(decoder_num_heads=3), 'the first a multiple of the last'),
        (dict(decoder_depth=0), 'whole numbers above 0'),
        (dict(decoder_embed_dim=32.0), 'whole numbers above 0'),
        (dict(init_cfg=dict(type='Pretrained', chekpoint='x')), 'init_cfg must be'),
        (dict(backbone=dict(type='Hiera', arch='tinny')), "did you mean 'tiny'"),
        (dict(backbone=dict(type='Hiera', arch='auto')), 'name them with init_cfg'),
        (dict(backbone=dict(type='Hiera', drop_path=0.1)), "no argument 'drop_path'"),
        (dict(backbone=dict(type='ConstantInit', val=0)), 'needs backbone=dict'),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        HieraMAE(**{'backbone': dict(type='Hiera', arch='tiny'), **DECODER, **options})


@pytest.mark.parametrize(
    ('size', 'options', 'message'),
    [
        ((20, 64), {}, 'images of 20x64 pixels are not whole mask units'),
        ((64, 64), dict(mask_ratio=0.9), 'of 4 mask units 0 would be visible'),
        ((64, 64), dict(mask_ratio=0.0), 'mask_ratio must be above 0'),
        ((32, 32), {}, 'larger images'),
        ((64, 64), dict(mask=torch.ones(2, 4)), 'of 4 mask units 4 would be visible'),
        ((64, 64), dict(mask=torch.ones(1, 4)), 'must have shape \\(2, 4\\)'),
        ((64, 64), dict(mask=torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]])), r'got \[1, 2\]'),
    ],
)
def test_impossible_images_and_masks(small_arch, size, options, message):
    with pytest.raises(ConfigError, match=message):
        small(small_arch).forward_mae(torch.randn(2, 3, *size), **options)
