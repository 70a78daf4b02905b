import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hiera_mm import weights
from hiera_mm.errors import CheckpointError, ConfigError
from hiera_mm.network import HieraTrunk
from hiera_mm.weights.export import convert
from hiera_mm.weights.files import read_file

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_weights.py'


def save(tmp_path, arch, **options):
    trunk = HieraTrunk(arch, **{'out_norm_eps': None, **options})
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.normal_()
    path = tmp_path / f'{arch}.pth'
    torch.save({'state_dict': trunk.state_dict()}, path)
    return trunk, path


def same(tensors, trunk):
    state = trunk.state_dict()
    return tensors.keys() == state.keys() and all(torch.equal(tensors[n], state[n]) for n in state)


@pytest.mark.parametrize(
    ('arch', 'targets'),
    [
        ('tiny', ['release', 'timm', 'transformers']),
        ('sam2_tiny', ['sam2', 'timm', 'transformers']),
        ('hieradet_small', ['timm']),
        ('base_abswin', ['timm']),
        ('small_abswin', ['timm']),
    ],
)
def test_there_and_back_is_exact(tmp_path, arch, targets):
    trunk, start = save(tmp_path, arch)
    for target in targets:
        for suffix in ('.pth', '.safetensors'):
            there, back = tmp_path / f'{target}{suffix}', tmp_path / f'back-{target}{suffix}'
            convert(start, there, to=target, arch=arch)
            assert weights.read(there).family.name in (
                target, f'{target}_sam2', 'ours',
            )  # fmt: skip
            convert(there, back, to='ours', arch=arch)
            assert same(weights.read(back).tensors, trunk)


@pytest.mark.peers
@pytest.mark.parametrize(
    ('arch', 'to', 'name'),
    [
        ('tiny', 'release', 'hiera_tiny_224'),
        ('tiny', 'timm', 'hiera_tiny_224'),
        ('sam2_tiny', 'timm', 'sam2_hiera_tiny'),
        ('small_abswin', 'timm', 'hiera_small_abswin_256'),
    ],
)
def test_the_project_itself_reads_it(tmp_path, arch, to, name):
    trunk, start = save(tmp_path, arch)
    convert(start, tmp_path / 'out.pth', to=to, arch=arch)
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    if to == 'release':
        module = pytest.importorskip('hiera')
        model, content = getattr(module, name)(), content['model_state']
    else:
        model = pytest.importorskip('timm').create_model(name)
    missing, unexpected = model.load_state_dict(content, strict=False)
    assert unexpected == []
    assert {n.split('.')[0] for n in missing} <= {'head', 'norm'}
    assert len(content) == len(trunk.state_dict())


@pytest.mark.peers
@pytest.mark.parametrize(
    ('arch', 'kind', 'size'), [('tiny', 'HieraModel', 224), ('sam2_tiny', 'Sam2HieraDetModel', 256)]
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
        ours = trunk.double().eval()(images)[-1]
        theirs = model.double().eval()(images).last_hidden_state
    theirs = theirs.movedim(-1, 1) if theirs.ndim == 4 else theirs.transpose(1, 2)
    assert (ours.flatten(2) - theirs.flatten(2)).abs().max() <= 1e-9 * theirs.std()


def test_trained_norms_of_outputs_reach_ours_only(tmp_path):
    trunk, start = save(tmp_path, 'tiny', out_norm_eps=1e-6)
    done = convert(start, tmp_path / 'ours.pth', to='ours')
    assert done.left_out == []
    assert same(weights.read(tmp_path / 'ours.pth').tensors, trunk)
    done = convert(start, tmp_path / 'timm.pth', to='timm')
    assert {name.split('.')[0] for name in done.left_out} == {'out_norms'}
    assert len(done.left_out) == 8


def test_an_absolute_win_map_becomes_an_absolute_one_for_the_release(tmp_path):
    trunk, start = save(tmp_path, 'tiny', pos_embed='absolute_win')
    done = convert(start, tmp_path / 'out.pth', to='release', arch='tiny')
    assert 'window part tiled over 56x56' in done.remarks[0]
    again = HieraTrunk('tiny', out_norm_eps=None).eval()
    weights.load(again, tmp_path / 'out.pth')
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(again(image), trunk.eval()(image), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('arch', 'to', 'message'),
    [
        ('sam2_tiny', 'release', "SAM 2's windows, which the release"),
        ('tiny', 'sam2', 'global stages instead of windows, which SAM 2'),
        ('hieradet_small', 'sam2', 'LayerScale'),
        ('small_abswin', 'transformers', 'LayerScale and pooled shortcuts'),
    ],
)
def test_what_a_project_has_no_place_for_is_refused(tmp_path, arch, to, message):
    _, start = save(tmp_path, arch)
    with pytest.raises(CheckpointError, match=message):
        convert(start, tmp_path / 'out.pth', to=to, arch=arch)
    assert not (tmp_path / 'out.pth').exists()


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    _, start = save(tmp_path, 'tiny')
    out = tmp_path / 'out.safetensors'
    out.write_text('mine')
    with pytest.raises(CheckpointError, match='exists already'):
        convert(start, out, to='timm')
    assert out.read_text() == 'mine'

    def full(tensors, path, **_):
        path.write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('hiera_mm.weights.export.save_file', full)
    with pytest.raises(CheckpointError, match=r'cannot be written: .*No space left'):
        convert(start, out, to='timm', force=True)
    assert out.read_text() == 'mine'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.safetensors', 'tiny.pth']
    monkeypatch.undo()
    convert(start, out, to='timm', force=True)
    assert len(load_file(out)) == 153


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_full_disk(tmp_path, monkeypatch, suffix):
    _, start = save(tmp_path, 'tiny')
    real = {'pth': torch.save, 'safetensors': save_file}[suffix]
    name = {'pth': 'torch.save', 'safetensors': 'hiera_mm.weights.export.save_file'}[suffix]
    monkeypatch.setattr(name, lambda tensors, _, **options: real(tensors, '/dev/full', **options))
    with pytest.raises(CheckpointError, match='cannot be written'):
        convert(start, tmp_path / f'out.{suffix}', to='timm')
    assert [p.name for p in tmp_path.iterdir()] == ['tiny.pth']


def test_force_leaves_other_files_of_a_folder(tmp_path):
    _, start = save(tmp_path, 'tiny')
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models' / 'precious.txt').write_text('mine')
    convert(start, tmp_path / 'models', to='transformers', force=True)
    assert (tmp_path / 'models' / 'precious.txt').read_text() == 'mine'
    config = json.loads((tmp_path / 'models' / 'config.json').read_text())
    assert config['depths'] == [1, 2, 7, 2]
    assert config['num_heads'] == [1, 2, 4, 8]


def test_bad_requests(tmp_path):
    _, start = save(tmp_path, 'tiny')
    with pytest.raises(CheckpointError, match=r'must end in \.safetensors'):
        convert(start, tmp_path / 'out.onnx', to='timm')
    with pytest.raises(CheckpointError, match="for 'keras'"):
        convert(start, tmp_path / 'out.pth', to='keras')
    with pytest.raises(CheckpointError, match="is not of arch 'base': depths"):
        convert(start, tmp_path / 'out.pth', to='timm', arch='base')


def test_an_unknown_architecture_is_answered_with_the_nearest(tmp_path):
    _, start = save(tmp_path, 'tiny')
    with pytest.raises(ConfigError, match="did you mean 'base'"):
        convert(start, tmp_path / 'out.pth', to='timm', arch='bsae')


def test_the_tool(tmp_path):
    trunk, start = save(tmp_path, 'tiny')

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True
        )

    done = run(start, tmp_path / 'out.pth', '--to', 'release')
    assert done.returncode == 0, done.stderr
    assert f'153 tensors written to {tmp_path / "out.pth"}' in done.stdout
    assert same(read_file(tmp_path / 'out.pth')['model_state'], trunk)
    again = run(start, tmp_path / 'out.pth', '--to', 'release')
    assert again.returncode == 2
    assert 'CheckpointError' in again.stderr
    assert 'Traceback' not in again.stderr


def test_an_architecture_of_ones_own(tmp_path, small_arch):
    trunk = HieraTrunk(small_arch, out_norm_eps=None)
    save_file(trunk.state_dict(), tmp_path / 'own.safetensors')
    convert(tmp_path / 'own.safetensors', tmp_path / 'hf', to='transformers', arch=small_arch)
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert config['num_heads'] == [2, 4, 8, 16]
    assert config['image_size'] == [224, 224]
