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
from hiera_mm.weights.families import FAMILIES


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
            lambda s: s.update({'patch_embed.proj.weight': torch.zeros(16, 1, 7, 7)}),
            'for images of 1 channels, and this network has in_channels=3',
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
