import json

import pytest
import torch
from safetensors import SafetensorError

from hiera_mm import weights
from hiera_mm.errors import CheckpointError, ConfigError
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.export import TARGETS, convert
from hiera_mm.weights.reading import read_file

RELEASE = dict(embed_dim=16, num_heads=2, depths=(1, 2, 2, 1))
SAM2 = dict(
    RELEASE,
    window_sizes=(8, 4, 14, 7),
    global_blocks=(4,),
    pos_embed=dict(type='absolute_win', grid=7),
)
HIERADET = dict(SAM2, layer_scale=True)
ABSWIN = dict(
    RELEASE,
    layer_scale=True,
    shortcut='pool',
    pos_embed=dict(type='absolute_win', grid=16, antialias=True),
)


def save(tmp_path, arch, **options):
    trunk = HieraTrunk(arch, **{'out_norm_eps': None, **options}).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.normal_()
    path = tmp_path / 'start.pth'
    torch.save({'state_dict': trunk.state_dict()}, path)
    return trunk, path


def same(tensors, trunk):
    state = trunk.state_dict()
    return tensors.keys() == state.keys() and all(torch.equal(tensors[n], state[n]) for n in state)


@pytest.mark.parametrize(
    ('arch', 'targets'),
    [
        (RELEASE, ['release', 'timm', 'transformers']),
        (SAM2, ['sam2', 'timm', 'transformers']),
        (HIERADET, ['timm']),
        (ABSWIN, ['timm']),
        *(
            pytest.param(arch, targets, marks=pytest.mark.slow)
            for arch, targets in [
                ('tiny', ['release', 'timm', 'transformers']),
                ('sam2_tiny', ['sam2', 'timm', 'transformers']),
                ('hieradet_small', ['timm']),
                ('base_abswin', ['timm']),
                ('small_abswin', ['timm']),
            ]
        ),
    ],
)
def test_there_and_back_is_exact(tmp_path, arch, targets):
    trunk, start = save(tmp_path, arch)
    for target in targets:
        for suffix in ('.pth', '.safetensors'):
            there, back = tmp_path / f'{target}{suffix}', tmp_path / f'back-{target}{suffix}'
            convert(start, there, to=target, arch=arch)
            assert weights.read(there).family.name in (target, f'{target}_sam2', 'ours')
            convert(there, back, to='ours', arch=arch)
            assert same(weights.read(back).tensors, trunk)


SIZES = dict(embed_dim=16, num_heads=2, stages=(1, 2, 2, 1))


def make_timm(arch):
    """Return timm's model of one of the small architectures above."""
    models = pytest.importorskip('timm').models
    if arch is SAM2:
        windows = dict(window_spec=(8, 4, 14, 7), global_att_blocks=(4,))
        return models.hieradet_sam2.HieraDet(**SIZES, **windows, global_pos_size=(7, 7))
    options = {}
    if arch is ABSWIN:
        options = dict(
            abs_win_pos_embed=True,
            global_pos_size=(16, 16),
            init_values=1e-5,
            use_expand_proj=False,
        )
    return models.hiera.Hiera(**SIZES, img_size=256 if options else 224, **options)


@pytest.mark.peers
@pytest.mark.parametrize(
    ('to', 'arch', 'make'),
    [
        ('timm', RELEASE, make_timm),
        ('timm', SAM2, make_timm),
        ('timm', ABSWIN, make_timm),
        ('release', RELEASE, lambda _: pytest.importorskip('hiera').Hiera(**SIZES)),
    ],
)
def test_they_read_it(tmp_path, to, arch, make):
    trunk, start = save(tmp_path, arch)
    convert(start, tmp_path / 'out.pth', to=to, arch=arch)
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    content = content.get('model_state', content)
    missing, unexpected = make(arch).load_state_dict(content, strict=False)
    assert unexpected == []
    assert {n.split('.')[0] for n in missing} <= {'head', 'norm'}
    assert len(content) == len(trunk.state_dict())


@pytest.mark.peers
@pytest.mark.parametrize(
    ('arch', 'kind', 'size'), [(RELEASE, 'HieraModel', 224), (SAM2, 'Sam2HieraDetModel', 256)]
)
def test_transformers_opens_the_folder(tmp_path, arch, kind, size):
    transformers = pytest.importorskip('transformers')
    trunk, start = save(tmp_path, arch)
    convert(start, tmp_path / 'out', to='transformers', arch=arch)
    model, info = getattr(transformers, kind).from_pretrained(
        tmp_path / 'out', output_loading_info=True
    )
    assert not info['unexpected_keys']
    assert all(name.startswith('pooler.') for name in info['missing_keys'])
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        ours = trunk.double()(images)[-1]
        theirs = model.double().eval()(images).last_hidden_state
    theirs = theirs.movedim(-1, 1) if theirs.ndim == 4 else theirs.transpose(1, 2)
    assert (ours.flatten(2) - theirs.flatten(2)).abs().max() <= 1e-9 * theirs.std()


def test_trained_norms_of_outputs_reach_ours_only(tmp_path):
    trunk, start = save(tmp_path, RELEASE, out_norm_eps=1e-6)
    done = convert(start, tmp_path / 'ours.pth', to='ours', arch=RELEASE)
    assert done.left_out == []
    assert same(weights.read(tmp_path / 'ours.pth').tensors, trunk)
    done = convert(start, tmp_path / 'timm.pth', to='timm', arch=RELEASE)
    assert {name.split('.')[0] for name in done.left_out} == {'out_norms'}
    assert len(done.left_out) == 8


def test_an_absolute_win_map_becomes_an_absolute_one_for_the_release(tmp_path):
    trunk, start = save(tmp_path, RELEASE, pos_embed='absolute_win')
    done = convert(start, tmp_path / 'out.pth', to='release', arch=RELEASE)
    assert 'window part tiled over 56x56' in done.remarks[0]
    again = HieraTrunk(RELEASE, out_norm_eps=None).eval()
    weights.load(again, tmp_path / 'out.pth')
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(again(image), trunk(image), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('arch', 'options', 'to', 'message'),
    [
        (SAM2, {}, 'release', "SAM 2's windows, which the release"),
        (RELEASE, {}, 'sam2', 'global stages instead of windows, which SAM 2'),
        (HIERADET, {}, 'sam2', 'LayerScale'),
        (ABSWIN, {}, 'transformers', 'LayerScale and pooled shortcuts'),
        (RELEASE, dict(rel_pos='global'), 'timm', 'relative position .* Use --to ours'),
    ],
)
def test_what_a_project_has_no_place_for_is_refused(tmp_path, arch, options, to, message):
    _, start = save(tmp_path, arch, **options)
    with pytest.raises(CheckpointError, match=message):
        convert(start, tmp_path / 'out.pth', to=to, arch=arch)
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize(
    ('suffix', 'writer', 'error'),
    [  # what torch and safetensors raise on a full disk, and what anything may
        ('pth', 'torch.save', RuntimeError('PytorchStreamWriter failed writing file')),
        ('pth', 'torch.save', OSError(28, 'No space left on device')),
        ('safetensors', 'hiera_mm.weights.export.save_file', SafetensorError('I/O error')),
    ],
)
def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch, suffix, writer, error):
    _, start = save(tmp_path, RELEASE)
    out = tmp_path / f'out.{suffix}'
    out.write_text('mine')
    with pytest.raises(CheckpointError, match='exists already'):
        convert(start, out, to='timm', arch=RELEASE)
    assert out.read_text() == 'mine'

    def full(tensors, path, **_):
        path.write_text('half')
        raise error

    monkeypatch.setattr(writer, full)
    with pytest.raises(CheckpointError, match='cannot be written'):
        convert(start, out, to='timm', arch=RELEASE, force=True)
    assert out.read_text() == 'mine'
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, 'start.pth']
    monkeypatch.undo()
    convert(start, out, to='timm', arch=RELEASE, force=True)
    assert len(read_file(out)) > 50


def test_force_leaves_other_files_of_a_folder(tmp_path):
    _, start = save(tmp_path, RELEASE)
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models' / 'precious.txt').write_text('mine')
    convert(start, tmp_path / 'models', to='transformers', arch=RELEASE, force=True)
    assert (tmp_path / 'models' / 'precious.txt').read_text() == 'mine'
    config = json.loads((tmp_path / 'models' / 'config.json').read_text())
    assert config['depths'] == [1, 2, 2, 1]
    assert config['num_heads'] == [2, 4, 8, 16]
    assert config['image_size'] == [224, 224]


@pytest.mark.parametrize(
    ('out', 'to', 'arch', 'message'),
    [
        ('out.onnx', 'timm', None, r'must end in \.safetensors'),
        ('out.pth', 'keras', None, "for 'keras'"),
        ('out.pth', 'timm', 'base', "is not of arch 'base': embed_dim"),
        ('out.pth', 'timm', None, "arch='auto' cannot tell"),
        ('out.pth', 'timm', 'bsae', "did you mean 'base'"),
    ],
)
def test_bad_requests(tmp_path, out, to, arch, message):
    _, start = save(tmp_path, RELEASE)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        convert(start, tmp_path / out, to=to, arch=arch)


def test_the_tool(tmp_path, run_here):
    trunk, start = save(tmp_path, RELEASE)
    options = ('--to', 'release', '--arch', json.dumps(RELEASE))
    done = run_here('convert_weights.py', start, tmp_path / 'out.pth', *options)
    assert done.returncode == 0, done.stderr
    count = len(trunk.state_dict())
    assert f'{count} tensors written to {tmp_path / "out.pth"}' in done.stdout
    assert same(read_file(tmp_path / 'out.pth')['model_state'], trunk)
    for target in TARGETS:
        assert target in run_here('convert_weights.py', '--help').stdout
    again = run_here('convert_weights.py', start, tmp_path / 'out.pth', *options)
    assert again.returncode == 2
    assert 'CheckpointError' in again.stderr
    assert 'Traceback' not in again.stderr
