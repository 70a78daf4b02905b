import re
import subprocess
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
        assert entry.licence in (APACHE, NON_COMMERCIAL)
        assert (entry.licence == APACHE) == ('sam2' in name or 'abswin' in name)
    assert len({e.name for e in CATALOG.values()}) == len(CATALOG)


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


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'hiera_mm.weights', *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_the_list():
    done = run()
    assert done.returncode == 0, done.stderr
    for name in CATALOG:
        assert f'\n{name} ' in done.stdout
    assert '27.1 M' in done.stdout
    part = run('list', 'CC BY')
    assert 'release://huge/mae_in1k ' in part.stdout
    assert 'sam2' not in part.stdout.split('known;')[0]


def test_inspect(tmp_path):
    trunk = HieraTrunk('sam2_tiny', out_norm_eps=None)
    state = {f'image_encoder.trunk.{n}': v for n, v in trunk.state_dict().items()}
    state = {n.replace('mlp.fc1', 'mlp.layers.0').replace('mlp.fc2', 'mlp.layers.1'): v
             for n, v in state.items()}  # fmt: skip
    torch.save({'model': state | {'no_mem_embed': torch.ones(1)}}, tmp_path / 'x.pt')
    done = run('inspect', tmp_path / 'x.pt')
    assert done.returncode == 0, done.stderr
    assert 'architecture  sam2_tiny' in done.stdout
    assert 'prefix        image_encoder.trunk.' in done.stdout
    assert 'parameters    26,849,472' in done.stdout
    assert re.search(r'window part   \d+% of its variance', done.stdout)
    missing = run('inspect', tmp_path / 'y.pt')
    assert missing.returncode == 2
    assert 'does not exist' in missing.stderr
    assert 'Traceback' not in missing.stderr


def test_hashes_and_sizes_come_together():
    for entry in CATALOG.values():
        assert (entry.size is None) == (entry.sha256 is None)
        assert entry.sha256 is None or re.fullmatch('[0-9a-f]{64}', entry.sha256)
    hashes = [e.sha256 for e in CATALOG.values() if e.sha256]
    assert len(set(hashes)) == 8


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('sam2://tiny', 'sam2://tiny'),
        (f'{RELEASE}/hiera_tiny_224.pth#sha256=0', 'release://tiny/mae_in1k_ft_in1k'),
        ('hf://timm/hiera_tiny_224.mae', 'timm://hiera_tiny_224.mae'),
        ('hf://timm/hiera_tiny_224.mae/x.bin', 'timm://hiera_tiny_224.mae'),
    ],
)
def test_what_is_known_of_a_source(source, name):
    assert entry_of(source) is CATALOG[name]


@pytest.mark.parametrize('source', ['hf://timm/hiera_tiny_224', 'x.pth', 'https://host/x.pth'])
def test_what_is_not_known(source):
    assert entry_of(source) is None
