import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import save_file

import hiera_mm  # noqa: F401  (registers Hiera)
from hiera_mm import weights
from hiera_mm.backbone import Hiera
from hiera_mm.errors import CheckpointError
from hiera_mm.network import HieraTrunk
from hiera_mm.network.position import Absolute, AbsoluteWin, WindowAligned, mean_unit, tile
from hiera_mm.weights.families import FAMILIES
from hiera_mm.weights.loading import adapt_position, adapt_stem, split, window_share


@pytest.fixture
def trained(small_arch):
    network = Hiera(small_arch)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / 'trained.pth'
    torch.save(trained.state_dict(), path)
    return path


def same(a, b):
    b = b.state_dict()
    return all(torch.equal(value, b[name]) for name, value in a.state_dict().items())


def test_everything_is_loaded_and_reported(trained, file, small_arch):
    network = Hiera(small_arch)
    report = weights.load(network, file)
    assert same(network, trained)
    assert set(report.loaded) == set(trained.state_dict())
    text = str(report)
    assert text.startswith(f'Hiera weights from {file}\n')
    assert 'family        hiera_mm' in text
    assert 'position embedding window_aligned: as in the file' in text
    assert 'not in file' not in text


def test_what_is_left_out_and_what_stays_is_said(trained, tmp_path, small_arch):
    state = {n: v for n, v in trained.state_dict().items() if not n.startswith('out_norms')}
    state |= {'norm.weight': torch.ones(1), 'head.projection.weight': torch.ones(1)}
    torch.save({'model_state': state}, tmp_path / 'release.pth')
    network = Hiera(small_arch)
    text = str(weights.load(network, tmp_path / 'release.pth'))
    assert 'left out      1 tensors: final norm, part of the classifier (norm)' in text
    assert 'left out      1 tensors: classifier (head)' in text
    assert 'not in file   8 tensors: out_norms' in text
    assert torch.equal(network.out_norms['0'].weight, torch.ones(16))


def test_the_norms_of_transformers_are_kept(trained, tmp_path, small_arch):
    family = FAMILIES['transformers']
    state = {family.theirs(n, (1, 2, 2, 1)): v for n, v in trained.state_dict().items()}
    save_file(state, tmp_path / 'model.safetensors')
    network = Hiera(small_arch, out_norm=dict(type='LN', eps=1e-5))
    assert 'eps of 1e-5' in str(weights.load(network, tmp_path / 'model.safetensors'))
    assert same(network, trained)
    bare = Hiera(small_arch, out_norm=None)
    text = str(weights.load(bare, tmp_path / 'model.safetensors'))
    assert (
        'left out      8 tensors: norms or projections of outputs, which this network does not have'
        in text
    )


def test_fewer_stages_take_what_they_need(trained, file, small_arch):
    network = Hiera(small_arch, out_indices=(0, 1))
    report = weights.load(network, file)
    assert all(torch.equal(v, trained.state_dict()[n]) for n, v in network.state_dict().items())
    assert {n.split('.')[1] for n in report.dropped['stages after the last of out_indices']} == {
        '3', '4', '5',
    }  # fmt: skip


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(trained, tmp_path, small_arch, dtype):
    trained.to(dtype)
    save_file(trained.state_dict(), tmp_path / 'x.safetensors')
    network = Hiera(small_arch)
    weights.load(network, tmp_path / 'x.safetensors')
    assert network.pos_embed.dtype == torch.float32
    assert same(network, trained.float())


def damaged(state, change):
    state = copy.deepcopy(dict(state))
    change(state)
    return state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('blocks.2.norm1.bias'), r'1 parameters .* not in it: blocks\.2\.norm1'),
        (
            lambda s: s['blocks.5.mlp.fc1.bias'].__setitem__(0, torch.nan),
            r'NaN or infinite numbers in 1 tensors: blocks\.5\.mlp\.fc1\.bias',
        ),
        (
            lambda s: s.update({'blocks.0.norm1.bias': torch.zeros(3)}),
            r'other shapes.*blocks\.0\.norm1\.bias \(file \[3\], network \[16\]\)',
        ),
        (
            lambda s: s.update({'patch_embed.proj.weight': torch.zeros(16, 4, 7, 7)}),
            'for images of 4 channels, and this network has in_channels=3.*Only .* of 3 channels',
        ),
        (lambda s: s.pop('pos_embed'), 'no position embedding'),
    ],
)
def test_nothing_is_loaded_if_anything_is_wrong(trained, tmp_path, small_arch, change, message):
    torch.save(damaged(trained.state_dict(), change), tmp_path / 'x.pth')
    network = Hiera(small_arch)
    before = copy.deepcopy(network)
    with pytest.raises(CheckpointError, match=message):
        weights.load(network, tmp_path / 'x.pth')
    assert same(network, before)


def test_nan_is_loaded_if_asked_for(trained, tmp_path, small_arch):
    state = damaged(trained.state_dict(), lambda s: s['pos_embed'].fill_(torch.nan))
    torch.save(state, tmp_path / 'x.pth')
    network = Hiera(small_arch)
    report = weights.load(network, tmp_path / 'x.pth', allow_nonfinite=True)
    assert network.pos_embed.isnan().all()
    assert 'NaN or infinite numbers in pos_embed' in str(report)


def test_another_form_of_position_embedding(trained, file, small_arch):
    network = Hiera(small_arch, pos_embed=dict(type='absolute_win', grid=56)).eval()
    report = weights.load(network, file)
    assert 'equal to the map' in str(report)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(network(image), trained.eval()(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_relative_position_starts_at_zero_unless_it_was_trained(
    trained, file, small_arch, tmp_path
):
    network = Hiera(small_arch, rel_pos='global')
    text = str(weights.load(network, file))
    assert 'not in file   4 tensors: blocks' in text
    state = {n: torch.randn_like(v) for n, v in network.state_dict().items()}
    torch.save(state, tmp_path / 'x.pth')
    weights.load(network, tmp_path / 'x.pth')
    assert all(torch.equal(v, state[n]) for n, v in network.state_dict().items())
    with pytest.raises(
        CheckpointError, match="trained with relative position: set rel_pos='global'"
    ):
        weights.load(Hiera(small_arch), tmp_path / 'x.pth')
    weights.load(Hiera(small_arch, out_indices=(0, 1)), tmp_path / 'x.pth')  # not in these stages


def test_a_plain_trunk_is_loaded_too(trained, file, small_arch):
    trunk = HieraTrunk(small_arch)
    weights.load(trunk, file)
    assert same(trunk, trained)


class TestInChannels:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('in_channels', [1, 2, 4, 6, 8, 13])
    def test_the_stem_is_adapted_as_timm_does(self, dtype, in_channels):
        manipulate = pytest.importorskip('timm.models._manipulate')
        weight = torch.randn(16, 3, 7, 7).to(dtype)
        expected = manipulate.adapt_input_conv(in_channels, weight.clone())
        found = adapt_stem(weight, in_channels)
        assert found.dtype == dtype
        assert torch.equal(found, expected)

    def test_an_image_repeated_over_the_channels_gives_the_same_features(
        self, trained, file, small_arch
    ):
        grey = torch.randn(1, 1, 32, 32)
        for in_channels, note in ((1, 'summed'), (6, 'repeated and rescaled')):
            network = Hiera(small_arch, in_channels=in_channels).eval()
            assert f'of 3 channels {note} for in_channels' in str(weights.load(network, file))
            with torch.no_grad():
                found = network(grey.expand(-1, in_channels, -1, -1))
                expected = trained.eval()(grey.expand(-1, 3, -1, -1))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

    def test_it_can_be_refused(self, file, small_arch):
        init_cfg = dict(type='Pretrained', checkpoint=str(file), adapt_in_channels=False)
        network = Hiera(small_arch, in_channels=4, init_cfg=init_cfg)
        before = network.patch_embed.proj.weight.clone()
        with pytest.raises(CheckpointError, match=r'in_channels=4.*adapt_in_channels=True'):
            network.init_weights()
        assert torch.equal(network.patch_embed.proj.weight, before)

    def test_other_stems_than_those_of_rgb_images_fit_their_own_number_only(
        self, tmp_path, small_arch
    ):
        four = Hiera(small_arch, in_channels=4)
        torch.save(four.state_dict(), tmp_path / 'x.pth')
        weights.load(Hiera(small_arch, in_channels=4), tmp_path / 'x.pth')
        for in_channels in (1, 3):
            with pytest.raises(CheckpointError, match='Only patch embeddings of 3 channels'):
                weights.load(Hiera(small_arch, in_channels=in_channels), tmp_path / 'x.pth')


class TestInitCfg:
    @pytest.mark.parametrize(
        'init_cfg',
        [
            lambda p: dict(type='Pretrained', checkpoint=p),
            lambda p: dict(checkpoint=p),  # what --cfg-options makes of a config without one
            lambda p: [dict(type='Pretrained', checkpoint=p, map_location='cpu')],
        ],
    )
    def test_loads(self, trained, file, small_arch, init_cfg):
        network = Hiera(small_arch, init_cfg=init_cfg(str(file)))
        network.check_pretrained()
        assert not same(network, trained)
        network.init_weights()
        assert same(network, trained)
        torch.nn.init.zeros_(network.pos_embed)
        network.init_weights()  # mmengine's modules initialise once
        assert (network.pos_embed == 0).all()

    def test_bad_files_are_found_before_training(self, tmp_path, small_arch):
        network = Hiera(
            small_arch, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
        )
        with pytest.raises(CheckpointError, match='does not exist'):
            network.check_pretrained()
        with pytest.raises(CheckpointError, match='does not exist'):
            network.init_weights()

    @pytest.mark.parametrize(
        ('init_cfg', 'message'),
        [
            (dict(type='Pretrained'), 'must be dict'),
            (dict(type='Pretrained', checkpoint='x', strict=True), 'must be dict.*strict'),
            ([dict(type='Pretrained', checkpoint='x'), dict(type='Normal')], 'Pretrained alone'),
        ],
    )
    def test_wrong(self, small_arch, init_cfg, message):
        with pytest.raises(ValueError, match=message):
            Hiera(small_arch, init_cfg=init_cfg)

    def test_other_initialisers_are_mmengines(self, small_arch):
        init_cfg = dict(type='Constant', layer='Conv2d', val=0.25, bias=0)
        network = Hiera(small_arch, init_cfg=init_cfg)
        network.init_weights()
        assert (network.patch_embed.proj.weight == 0.25).all()

    def test_inside_a_detector(self, trained, file, small_arch):
        segmenter = MODELS.build(
            dict(
                type='mmseg.EncoderDecoder',
                backbone=dict(type='Hiera', arch=small_arch, init_cfg=dict(checkpoint=str(file))),
                decode_head=dict(
                    type='mmseg.FCNHead', in_channels=128, channels=8, num_classes=2, in_index=-1
                ),
            )
        )
        segmenter.init_weights()
        assert same(segmenter.backbone, trained)


class TestAuto:
    def test_takes_architecture_and_map_from_the_file(self, tmp_path):
        published = HieraTrunk('tiny', pos_embed=dict(type='absolute', grid=64), out_norm_eps=None)
        save_file(published.state_dict(), tmp_path / 'tiny.safetensors')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'tiny.safetensors'))
        network = Hiera('auto', init_cfg=init_cfg)
        assert network.variant.depths == (1, 2, 7, 2)
        assert network.position.grid == (64, 64)
        network.init_weights()
        assert torch.equal(network.pos_embed, published.pos_embed)

    def test_needs_a_file(self):
        with pytest.raises(ValueError, match="arch='auto' takes the architecture from weights"):
            Hiera('auto')


@pytest.mark.parametrize('ema', [False, True])
def test_checkpoints_that_mmengine_wrote(trained, tmp_path, small_arch, ema):
    """An ordinary one, and one of a training with averaged weights."""
    from mmengine.model import BaseModel

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = copy.deepcopy(trained)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.backbone(torch.stack(inputs))[0].square().mean())

    torch.manual_seed(0)
    runner = Runner(
        Model(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.randn(3, 32, 32)) for _ in range(2)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type=EMAHook)] if ema else None,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        default_scope='mmengine',
        experiment_name=f'toy-{ema}',
    )
    runner.train()
    last = runner.model.backbone
    network = Hiera(small_arch)
    report = weights.load(network, tmp_path / 'iter_2.pth')
    assert report.family == 'hiera_mm'
    if ema:
        average = runner.hooks[[type(h) for h in runner.hooks].index(EMAHook)].ema_model
        assert same(network, average.module.backbone)
        assert not same(network, last)
    else:
        assert same(network, last)


DIM = 3


def absolute(side=56):
    return {'pos_embed': torch.randn(1, side * side, DIM, dtype=torch.float64)}


def win(grid=(7, 7)):
    return {
        'pos_embed': torch.randn(1, DIM, *grid, dtype=torch.float64),
        'pos_embed_window': torch.randn(1, DIM, 8, 8, dtype=torch.float64),
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ('parameters', 'theirs', 'ours'),
    [
        (absolute(), Absolute(), Absolute()),
        (absolute(), Absolute(), WindowAligned()),
        (absolute(112), Absolute((112, 112)), WindowAligned((112, 112))),
        (win(), AbsoluteWin((7, 7)), AbsoluteWin((7, 7))),
    ],
)
def test_the_same_form_is_left_alone(parameters, theirs, ours):
    adapted, done = adapt_position(parameters, theirs, ours)
    assert equal(adapted, parameters)
    assert done is None


@pytest.mark.parametrize('kind', [Absolute, WindowAligned])
def test_a_map_of_another_size_is_resized_as_the_network_would(kind):
    parameters = absolute(112)
    adapted, done = adapt_position(parameters, Absolute((112, 112)), kind())
    expected = kind((112, 112)).resize(parameters, (56, 56))
    assert torch.equal(kind().learnt(adapted), expected)
    assert '112x112 map resized to 56x56' in done


def test_both_kinds_resize_differently():
    parameters = absolute(112)
    naive, _ = adapt_position(parameters, Absolute((112, 112)), Absolute())
    aligned, _ = adapt_position(parameters, Absolute((112, 112)), WindowAligned())
    assert not torch.allclose(naive['pos_embed'], aligned['pos_embed'])


def test_absolute_win_to_absolute_is_exact_at_the_training_size():
    parameters, theirs = win(), AbsoluteWin((7, 7))
    for ours in (Absolute(), WindowAligned()):
        adapted, done = adapt_position(parameters, theirs, ours)
        assert torch.equal(ours.resize(adapted, (56, 56)), theirs.resize(parameters, (56, 56)))
        assert 'window part tiled over 56x56' in done


def test_the_global_part_changes_size_alone():
    parameters = win((7, 7))
    adapted, done = adapt_position(parameters, AbsoluteWin((7, 7)), AbsoluteWin((14, 14)))
    assert adapted['pos_embed'].shape == (1, DIM, 14, 14)
    assert torch.equal(adapted['pos_embed_window'], parameters['pos_embed_window'])
    assert 'global part resized from 7x7 to 14x14' in done


def test_a_global_part_as_large_as_the_map_loses_nothing():
    parameters, ours = absolute(), AbsoluteWin((56, 56))
    adapted, done = adapt_position(parameters, Absolute(), ours)
    torch.testing.assert_close(
        ours.resize(adapted, (56, 56)), Absolute().learnt(parameters), rtol=0, atol=1e-14
    )
    assert 'equal to the map' in done
    # and then it is another parametrisation of the window-aligned form
    for grid in [(8, 8), (64, 40), (112, 112)]:
        torch.testing.assert_close(
            ours.resize(adapted, grid), WindowAligned().resize(parameters, grid), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('grid', [(7, 7), (14, 14), (14, 10)])
def test_the_split_is_the_nearest_there_is(grid, antialias):
    form = AbsoluteWin(grid, antialias)
    learnt = Absolute().learnt(absolute())
    window, part = split(learnt, form)
    assert torch.equal(window, mean_unit(learnt))
    rest = learnt - tile(window, (56, 56))

    def error(candidate):
        resized = form.resize(
            {'pos_embed': candidate, 'pos_embed_window': torch.zeros_like(window)}, (56, 56)
        )
        return (resized - rest).square().sum()

    part.requires_grad_()
    (gradient,) = torch.autograd.grad(error(part), part)
    assert gradient.abs().max() < 1e-10 * error(torch.zeros_like(part))
    assert error(part) < error(torch.zeros_like(part))


@pytest.mark.parametrize('antialias', [False, True])
def test_a_map_that_is_such_a_sum_is_found_again(antialias):
    form = AbsoluteWin((7, 7), antialias)
    parameters = win()
    made = form.resize(parameters, (56, 56))
    adapted, done = adapt_position({'pos_embed': made.flatten(2).transpose(1, 2)}, Absolute(), form)
    again = form.resize(adapted, (56, 56))
    # The mean mask unit holds a little of the global part, so this is near and not exact.
    assert (again - made).norm() < 0.1 * made.norm()
    assert '% of it is lost (RMS)' in done


def test_another_cubic_is_mentioned():
    _, done = adapt_position(win(), AbsoluteWin((7, 7), antialias=True), AbsoluteWin((7, 7)))
    assert 'another cubic' in done


def test_maps_that_are_not_whole_mask_units_are_refused():
    with pytest.raises(
        CheckpointError, match='covers 14x14 tokens, which are not whole mask units'
    ):
        adapt_position(absolute(14), Absolute((14, 14)), WindowAligned())


@pytest.mark.parametrize('rest', [0.0, 1.0, 3.0])
def test_the_share_of_the_window_part(rest):
    torch.manual_seed(0)
    unit, other = torch.randn(1, 500, 8, 8), torch.randn(1, 500, 56, 56)
    whole = tile(unit, (56, 56)) + rest * (other - tile(mean_unit(other), (56, 56)))
    share = window_share({'pos_embed': whole.flatten(2).transpose(1, 2)}, WindowAligned())
    assert share == pytest.approx(1 / (1 + rest**2 * 48 / 49), rel=0.05)
    parts = {'pos_embed': torch.zeros(1, 500, 7, 7), 'pos_embed_window': unit}
    assert window_share(parts, AbsoluteWin((7, 7))) == pytest.approx(1, rel=0.02)
