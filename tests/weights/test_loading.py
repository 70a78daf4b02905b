import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
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

ARCH = dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))


@pytest.fixture(scope='module')
def trained():
    torch.manual_seed(0)
    network = Hiera(ARCH).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


@pytest.fixture
def state(trained):
    return {name: value.clone() for name, value in trained.state_dict().items()}


@pytest.fixture
def write(tmp_path):
    def write(content):
        torch.save(content, tmp_path / 'x.pth')
        return tmp_path / 'x.pth'

    return write


@pytest.fixture
def file(write, state):
    return write(state)


def same(network, state):
    state = state if isinstance(state, dict) else state.state_dict()
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_everything_is_loaded_and_reported(trained, file):
    network = Hiera(ARCH)
    report = weights.load(network, file)
    assert same(network, trained)
    assert set(report.loaded) == set(trained.state_dict())
    text = str(report)
    assert text.startswith(f'Hiera weights from {file}\n')
    assert 'family        hiera_mm' in text
    assert 'position embedding window_aligned: as in the file' in text
    assert 'not in file' not in text
    trunk = HieraTrunk(ARCH)
    weights.load(trunk, file)
    assert same(trunk, trained)


def test_what_is_left_out_and_what_stays_is_said(state, write):
    state = {n: v for n, v in state.items() if not n.startswith('out_norms')}
    state |= {'norm.weight': torch.ones(1), 'head.projection.weight': torch.ones(1)}
    network = Hiera(ARCH)
    text = str(weights.load(network, write({'model_state': state})))
    assert 'left out      1 tensors: final norm, part of the classifier (norm)' in text
    assert 'left out      1 tensors: classifier (head)' in text
    assert 'not in file   8 tensors: out_norms' in text
    assert torch.equal(network.out_norms['0'].weight, torch.ones(16))


def test_the_norms_of_transformers_are_kept(trained, state, write):
    theirs = {FAMILIES['transformers'].theirs(n, ARCH['depths']): v for n, v in state.items()}
    file = write(theirs)
    network = Hiera(ARCH, out_norm=dict(type='LN', eps=1e-5))
    assert 'eps of 1e-5' in str(weights.load(network, file))
    assert same(network, trained)
    text = str(weights.load(Hiera(ARCH, out_norm=None), file))
    assert '8 tensors: norms or projections of outputs, which this network does not have' in text


def test_fewer_stages_take_what_they_need(state, file):
    network = Hiera(ARCH, out_indices=(0, 1))
    report = weights.load(network, file)
    assert same(network, state)
    left_out = report.dropped['stages after the last of out_indices']
    assert {name.split('.')[1] for name in left_out} == {'3', '4', '5'}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(state, tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in state.items()}
    save_file(state, tmp_path / 'x.safetensors')
    network = Hiera(ARCH)
    weights.load(network, tmp_path / 'x.safetensors')
    assert network.pos_embed.dtype == torch.float32
    assert same(network, {name: value.float() for name, value in state.items()})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('blocks.2.norm1.bias'), r'1 parameters .* not in it: blocks\.2\.norm1'),
        (
            lambda s: s['blocks.5.mlp.fc1.bias'].fill_(torch.nan),
            r'NaN or infinite numbers in 1 tensors: blocks\.5\.mlp\.fc1\.bias',
        ),
        (lambda s: s['pos_embed'].fill_(torch.inf), 'NaN or infinite .*: pos_embed'),
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
def test_nothing_is_loaded_if_anything_is_wrong(state, write, change, message):
    change(state)
    network = Hiera(ARCH)
    before = copy.deepcopy(network)
    with pytest.raises(CheckpointError, match=message):
        weights.load(network, write(state))
    assert same(network, before)


def test_nan_is_loaded_if_asked_for(state, write):
    state['pos_embed'].fill_(torch.nan)
    network = Hiera(ARCH)
    report = weights.load(network, write(state), allow_nonfinite=True)
    assert network.pos_embed.isnan().all()
    assert 'NaN or infinite numbers in pos_embed' in str(report)


def test_another_form_of_position_embedding(trained, file):
    network = Hiera(ARCH, pos_embed=dict(type='absolute_win', grid=56)).eval()
    assert 'equal to the map' in str(weights.load(network, file))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(network(image), trained(image), rtol=1e-4, atol=1e-4)


def test_relative_position_starts_at_zero_unless_it_was_trained(file, write):
    network = Hiera(ARCH, rel_pos='global')
    assert 'not in file   4 tensors: blocks' in str(weights.load(network, file))
    state = {n: torch.randn_like(v) for n, v in network.state_dict().items()}
    file = write(state)
    weights.load(network, file)
    assert same(network, state)
    message = "trained with relative position: set rel_pos='global'"
    with pytest.raises(CheckpointError, match=message):
        weights.load(Hiera(ARCH), file)
    weights.load(Hiera(ARCH, out_indices=(0, 1)), file)  # not in these stages


@pytest.mark.parametrize('ema', [False, True])
def test_checkpoints_that_mmengine_wrote(trained, tmp_path, ema):
    """An ordinary one, and one of a training with averaged weights."""

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = copy.deepcopy(trained)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.backbone(torch.stack(inputs))[0].square().mean())

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
    network = Hiera(ARCH)
    assert weights.load(network, tmp_path / 'iter_2.pth').family == 'hiera_mm'
    if ema:
        average = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model
        assert same(network, average.module.backbone)
    assert same(network, last) != ema


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

    @pytest.mark.parametrize(('channels', 'note'), [(1, 'summed'), (6, 'repeated and rescaled')])
    def test_a_grey_image_gives_the_same_features(self, trained, file, channels, note):
        network = Hiera(ARCH, in_channels=channels).eval()
        assert f'of 3 channels {note} for in_channels' in str(weights.load(network, file))
        grey = torch.randn(1, 1, 32, 32)
        with torch.no_grad():
            found = network(grey.expand(-1, channels, -1, -1))
            expected = trained(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

    def test_it_can_be_refused(self, file):
        init_cfg = dict(type='Pretrained', checkpoint=str(file), adapt_in_channels=False)
        network = Hiera(ARCH, in_channels=4, init_cfg=init_cfg)
        with pytest.raises(CheckpointError, match=r'in_channels=4.*adapt_in_channels=True'):
            network.init_weights()

    def test_other_stems_fit_their_own_number_only(self, write):
        four = Hiera(ARCH, in_channels=4)
        file = write(four.state_dict())
        network = Hiera(ARCH, in_channels=4)
        weights.load(network, file)
        assert same(network, four)
        with pytest.raises(CheckpointError, match='Only patch embeddings of 3 channels'):
            weights.load(Hiera(ARCH, in_channels=1), file)


class TestInitCfg:
    @pytest.mark.parametrize(
        'init_cfg',
        [
            lambda p: dict(type='Pretrained', checkpoint=p),
            lambda p: dict(checkpoint=p),  # what --cfg-options makes of a config without one
            lambda p: [dict(type='Pretrained', checkpoint=p, map_location='cpu')],
        ],
    )
    def test_loads(self, trained, file, init_cfg):
        network = Hiera(ARCH, init_cfg=init_cfg(str(file)))
        network.check_pretrained()
        assert not same(network, trained)
        network.init_weights()
        assert same(network, trained)
        torch.nn.init.zeros_(network.pos_embed)
        network.init_weights()  # mmengine's modules initialise once
        assert (network.pos_embed == 0).all()

    def test_bad_files_are_found_before_training(self, tmp_path):
        network = Hiera(ARCH, init_cfg=dict(checkpoint=str(tmp_path / 'no.pth')))
        for start in (network.check_pretrained, network.init_weights):
            with pytest.raises(CheckpointError, match='does not exist'):
                start()

    @pytest.mark.parametrize(
        ('init_cfg', 'message'),
        [
            (dict(type='Pretrained'), 'must be dict'),
            (dict(type='Pretrained', checkpoint='x', strict=True), 'must be dict.*strict'),
            ([dict(type='Pretrained', checkpoint='x'), dict(type='Normal')], 'Pretrained alone'),
        ],
    )
    def test_wrong(self, init_cfg, message):
        with pytest.raises(ValueError, match=message):
            Hiera(ARCH, init_cfg=init_cfg)

    def test_other_initialisers_are_mmengines(self):
        network = Hiera(ARCH, init_cfg=dict(type='Constant', layer='Conv2d', val=0.25, bias=0))
        network.init_weights()
        assert (network.patch_embed.proj.weight == 0.25).all()

    def test_inside_a_segmenter(self, trained, file):
        head = dict(type='mmseg.FCNHead', in_channels=128, channels=8, num_classes=2, in_index=-1)
        head['loss_decode'] = dict(type='mmseg.CrossEntropyLoss')
        backbone = dict(type='Hiera', arch=ARCH, init_cfg=dict(checkpoint=str(file)))
        segmenter = MODELS.build(
            dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head)
        )
        segmenter.init_weights()
        assert same(segmenter.backbone, trained)

    def test_auto_takes_architecture_and_map_from_the_file(self, write):
        published = HieraTrunk('tiny', pos_embed=dict(type='absolute', grid=64), out_norm_eps=None)
        init_cfg = dict(type='Pretrained', checkpoint=str(write(published.state_dict())))
        network = Hiera('auto', init_cfg=init_cfg)
        assert network.variant.depths == (1, 2, 7, 2)
        assert network.position.grid == (64, 64)
        network.init_weights()
        assert torch.equal(network.pos_embed, published.pos_embed)

    def test_auto_needs_a_file(self):
        with pytest.raises(ValueError, match="arch='auto' takes the architecture from weights"):
            Hiera('auto')


DIM = 3


def absolute(side=56):
    return {'pos_embed': torch.randn(1, side * side, DIM, dtype=torch.float64)}


def win(side=7):
    return {
        'pos_embed': torch.randn(1, DIM, side, side, dtype=torch.float64),
        'pos_embed_window': torch.randn(1, DIM, 8, 8, dtype=torch.float64),
    }


class TestPosition:
    @pytest.mark.parametrize(
        ('parameters', 'theirs', 'ours'),
        [
            (absolute(), Absolute(), Absolute()),
            (absolute(), Absolute(), WindowAligned()),
            (absolute(112), Absolute((112, 112)), WindowAligned((112, 112))),
            (win(), AbsoluteWin((7, 7)), AbsoluteWin((7, 7))),
        ],
    )
    def test_the_same_form_is_left_alone(self, parameters, theirs, ours):
        adapted, done = adapt_position(parameters, theirs, ours)
        assert adapted.keys() == parameters.keys()
        assert all(torch.equal(adapted[name], value) for name, value in parameters.items())
        assert done is None

    @pytest.mark.parametrize('kind', [Absolute, WindowAligned])
    def test_a_map_of_another_size_is_resized_as_the_network_would(self, kind):
        parameters = absolute(112)
        adapted, done = adapt_position(parameters, Absolute((112, 112)), kind())
        assert torch.equal(kind().learnt(adapted), kind((112, 112)).resize(parameters, (56, 56)))
        assert '112x112 map resized to 56x56' in done

    @pytest.mark.parametrize('ours', [Absolute(), WindowAligned()])
    def test_absolute_win_to_absolute_is_exact_at_the_training_size(self, ours):
        parameters, theirs = win(), AbsoluteWin((7, 7))
        adapted, done = adapt_position(parameters, theirs, ours)
        assert torch.equal(ours.resize(adapted, (56, 56)), theirs.resize(parameters, (56, 56)))
        assert 'window part tiled over 56x56' in done

    def test_the_global_part_changes_size_alone(self):
        parameters = win()
        adapted, done = adapt_position(parameters, AbsoluteWin((7, 7)), AbsoluteWin((14, 14)))
        assert adapted['pos_embed'].shape == (1, DIM, 14, 14)
        assert torch.equal(adapted['pos_embed_window'], parameters['pos_embed_window'])
        assert 'global part resized from 7x7 to 14x14' in done
        theirs = AbsoluteWin((7, 7), antialias=True)
        assert 'another cubic' in adapt_position(parameters, theirs, AbsoluteWin((7, 7)))[1]

    def test_a_global_part_as_large_as_the_map_loses_nothing(self):
        parameters, ours = absolute(), AbsoluteWin((56, 56))
        adapted, done = adapt_position(parameters, Absolute(), ours)
        assert 'equal to the map' in done
        # It is then another parametrisation of the window-aligned form.
        for grid in [(56, 56), (8, 8), (64, 40), (112, 112)]:
            expected = WindowAligned().resize(parameters, grid)
            torch.testing.assert_close(ours.resize(adapted, grid), expected, rtol=0, atol=1e-13)

    @pytest.mark.parametrize('antialias', [False, True])
    @pytest.mark.parametrize('grid', [(7, 7), (14, 10)])
    def test_the_split_is_the_nearest_there_is(self, grid, antialias):
        form = AbsoluteWin(grid, antialias)
        learnt = Absolute().learnt(absolute())
        window, part = split(learnt, form)
        assert torch.equal(window, mean_unit(learnt))
        rest = learnt - tile(window, (56, 56))

        def error(candidate):
            maps = {'pos_embed': candidate, 'pos_embed_window': torch.zeros_like(window)}
            return (form.resize(maps, (56, 56)) - rest).square().sum()

        part.requires_grad_()
        (gradient,) = torch.autograd.grad(error(part), part)
        assert gradient.abs().max() < 1e-10 * error(torch.zeros_like(part))
        assert error(part) < error(torch.zeros_like(part))

    @pytest.mark.parametrize('antialias', [False, True])
    def test_a_map_that_is_such_a_sum_is_found_again(self, antialias):
        form = AbsoluteWin((7, 7), antialias)
        made = form.resize(win(), (56, 56))
        learnt = {'pos_embed': made.flatten(2).transpose(1, 2)}
        adapted, done = adapt_position(learnt, Absolute(), form)
        # The mean mask unit holds a little of the global part, so this is near and not exact.
        assert (form.resize(adapted, (56, 56)) - made).norm() < 0.1 * made.norm()
        assert '% of it is lost (RMS)' in done

    def test_maps_that_are_not_whole_mask_units_are_refused(self):
        message = 'covers 14x14 tokens, which are not whole mask units'
        with pytest.raises(CheckpointError, match=message):
            adapt_position(absolute(14), Absolute((14, 14)), WindowAligned())

    @pytest.mark.parametrize('rest', [0.0, 1.0, 3.0])
    def test_the_share_of_the_window_part(self, rest):
        unit, other = torch.randn(1, 500, 8, 8), torch.randn(1, 500, 56, 56)
        whole = tile(unit, (56, 56)) + rest * (other - tile(mean_unit(other), (56, 56)))
        share = window_share({'pos_embed': whole.flatten(2).transpose(1, 2)}, WindowAligned())
        assert share == pytest.approx(1 / (1 + rest**2 * 48 / 49), rel=0.05)
        parts = {'pos_embed': torch.zeros(1, 500, 7, 7), 'pos_embed_window': unit}
        assert window_share(parts, AbsoluteWin((7, 7))) == pytest.approx(1, rel=0.02)
