import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from hiera_mm.network import VARIANTS, HieraTrunk
from hiera_mm.weights.catalog import APACHE, CATALOG, NON_COMMERCIAL, entry_of

RELEASE = 'https://dl.fbaipublicfiles.com/hiera'


def test_every_entry_is_complete():
    for name, entry in CATALOG.items():
        assert name == entry.name
        assert entry.arch in VARIANTS
        assert entry.url.startswith(('https://', 'hf://'))
        free = 'sam2' in name or 'abswin' in name
        assert entry.training.licence == (APACHE if free else NON_COMMERCIAL)
        assert (entry.size is None) == (entry.sha256 is None)
        assert entry.sha256 is None or re.fullmatch('[0-9a-f]{64}', entry.sha256)
    assert len(CATALOG) == len({entry.url for entry in CATALOG.values()}) == 67
    assert len({entry.sha256 for entry in CATALOG.values() if entry.sha256}) == 8


@pytest.mark.peers
def test_the_release_has_these_addresses():
    hiera = pytest.importorskip('hiera.hiera')
    addresses = {e.url for n, e in CATALOG.items() if n.startswith('release://')}
    text = Path(hiera.__file__).read_text()
    assert all(address in text for address in addresses)
    assert len(addresses) == 12


@pytest.mark.peers
def test_timm_has_these_names():
    timm = pytest.importorskip('timm')
    known = {f'timm://{name}' for pattern in ('hiera_*', 'sam2_hiera_*')
             for name in timm.list_models(pattern, pretrained=True)}  # fmt: skip
    ours = {name for name in CATALOG if name.startswith('timm://')}
    assert ours == known


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('sam2://tiny', 'sam2://tiny'),
        (f'{RELEASE}/hiera_tiny_224.pth#sha256=0', 'release://tiny/mae_in1k_ft_in1k'),
        ('hf://timm/hiera_tiny_224.mae', 'timm://hiera_tiny_224.mae'),
        ('hf://timm/hiera_tiny_224.mae/x.bin', 'timm://hiera_tiny_224.mae'),
        ('hf://timm/hiera_tiny_224', None),
        ('x.pth', None),
        ('https://host/x.pth', None),
    ],
)
def test_what_is_known_of_a_source(source, name):
    assert entry_of(source) is CATALOG.get(name)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``python -m hiera_mm.weights`` in this process; return its exit code and its output."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['weights', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module('hiera_mm.weights', run_name='__main__')
        return ended.value.code or 0, capsys.readouterr()

    return run


def test_the_list(run):
    code, said = run()
    assert code == 0
    for name in CATALOG:
        assert f'\n{name} ' in said.out
    assert '27.1 M' in said.out
    _, said = run('list', 'CC BY')
    assert 'release://huge/mae_in1k ' in said.out
    assert 'sam2' not in said.out.split('known;')[0]


def test_inspect(tmp_path, run):
    trunk = HieraTrunk('sam2_tiny', out_norm_eps=None)
    state = {f'image_encoder.trunk.{n}': v for n, v in trunk.state_dict().items()}
    state = {n.replace('mlp.fc1', 'mlp.layers.0').replace('mlp.fc2', 'mlp.layers.1'): v
             for n, v in state.items()}  # fmt: skip
    torch.save({'model': state | {'no_mem_embed': torch.ones(1)}}, tmp_path / 'x.pt')
    code, said = run('inspect', tmp_path / 'x.pt')
    assert code == 0, said.err
    assert 'architecture  sam2_tiny' in said.out
    assert 'prefix        image_encoder.trunk.' in said.out
    assert 'parameters    26,849,472' in said.out
    assert re.search(r'window part   \d+% of its variance', said.out)
    code, said = run('inspect', tmp_path / 'y.pt')
    assert code == 2
    assert 'does not exist' in said.err
