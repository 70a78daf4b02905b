import errno
import json

import pytest
import torch
from safetensors.torch import save

from hiera_mm.errors import CheckpointError
from hiera_mm.weights.files import read_file
from hiera_mm.weights.hub import fetch, find

CONTENT = save({'a': torch.arange(5000.0)})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The hub's client waits before it tries again."""
    monkeypatch.setattr('time.sleep', lambda _: None)


@pytest.fixture
def put(hub):
    """Publish the files of a repository."""

    def publish(repository: str = 'org/name', **files: bytes):
        for name, content in files.items():
            hub.put(f'/{repository}/resolve/main/{name}', content)
        tree = [{'type': 'file', 'path': name, 'size': 1, 'oid': '0'} for name in files]
        path = f'/api/models/{repository}/tree/main?recursive=true&expand=false'
        hub.put(path, json.dumps(tree).encode())

    return publish


def test_the_usual_file_is_downloaded_once(hub, put):
    put(**{'model.safetensors': CONTENT, 'pytorch_model.bin': b'old', 'x.pt': b'other'})
    assert find('org/name') is None
    path = fetch('org/name')
    assert path.read_bytes() == CONTENT
    before = list(hub.requests)
    hub.files.clear()
    assert find('org/name') == path
    assert hub.requests == before


def test_a_named_file(put):
    put(**{'model.safetensors': b'other', 'folder/x.pt': CONTENT})
    assert fetch('org/name/folder/x.pt').read_bytes() == CONTENT
    assert find('org/name/folder/x.pt').read_bytes() == CONTENT


@pytest.mark.parametrize('folder', ['', 'part/'])
def test_shards_come_with_their_index(hub, put, folder):
    name = f'{folder}model.safetensors.index.json'
    files = {
        f'{folder}one.safetensors': CONTENT,
        f'{folder}two.safetensors': save({'b': torch.ones(3)}),
    }
    put(
        **{
            name: json.dumps(
                {'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}
            ).encode()
        },
        **files,
    )
    place = f'org/name/{name}' if folder else 'org/name'
    two = f'/org/name/resolve/main/{folder}two.safetensors'
    hub.statuses[two] = 404
    with pytest.raises(CheckpointError):
        fetch(place)
    assert find(place) is None, 'a shard is missing'
    del hub.statuses[two]
    assert read_file(fetch(place)).keys() == {'a', 'b'}
    assert find(place) == fetch(place)


def test_an_index_that_is_none(put):
    put(**{'model.safetensors.index.json': b'[]'})
    with pytest.raises(CheckpointError, match='no index'):
        fetch('org/name')


def test_the_only_checkpoint(put):
    put(**{'sam2_hiera_tiny.pt': CONTENT, 'README.md': b'', 'training.bin': b''})
    assert fetch('org/name').name == 'sam2_hiera_tiny.pt'
    put('org/two', **{'a.pt': CONTENT, 'b.pth': CONTENT})
    with pytest.raises(CheckpointError, match=r'several .*a\.pt, b\.pth.*hf://org/two/FILE'):
        fetch('org/two')
    put('org/none', **{'README.md': b''})
    with pytest.raises(CheckpointError, match='no file of weights'):
        fetch('org/none')


def test_a_cut_connection_leaves_nothing(hub, put, tmp_path):
    put(**{'model.safetensors': CONTENT})
    hub.cut['/org/name/resolve/main/model.safetensors'] = 100
    with pytest.raises(CheckpointError):
        fetch('org/name')
    assert find('org/name') is None
    assert not [p for p in (tmp_path / 'hub').rglob('*') if p.is_file() and p.stat().st_size > 1000]
    hub.cut.clear()
    assert fetch('org/name').read_bytes() == CONTENT


class TestWhatIsSaid:
    def test_of_a_repository_that_is_not_there(self, hub):
        with pytest.raises(CheckpointError, match='hf://org/nothing'):
            fetch('org/nothing')

    @pytest.mark.parametrize('place', ['hiera', 'org/', '/name', ''])
    def test_of_half_a_name(self, place):
        with pytest.raises(CheckpointError, match='hf://organisation/repository'):
            find(place)

    def test_of_an_impossible_name(self, hub):
        with pytest.raises(CheckpointError, match='cannot be the name'):
            find('org/a name')

    def test_of_a_file_that_is_not_there(self, put):
        put(**{'model.safetensors': CONTENT})
        with pytest.raises(CheckpointError, match=r"no file 'x\.pt'.*org/name/tree/main"):
            fetch('org/name/x.pt')

    @pytest.mark.parametrize(
        ('status', 'message'),
        [
            (401, 'no repository org/name'),
            (403, 'consent.*/org/name,'),
            (500, 'HF_ENDPOINT'),
        ],
    )
    def test_of_an_error_of_the_hub(self, hub, put, status, message):
        put(**{'x.pt': CONTENT})
        hub.statuses['/org/name/resolve/main/x.pt'] = status
        with pytest.raises(CheckpointError, match=message):
            fetch('org/name/x.pt')

    def test_of_a_hub_out_of_reach(self, hub, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
        template = 'http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        for place in ('org/name', 'org/name/x.pt'):
            with pytest.raises(CheckpointError, match=r'127\.0\.0\.1:1.*HF_ENDPOINT'):
                fetch(place)

    def test_offline(self, hub, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
        for place in ('org/name', 'org/name/x.pt'):
            with pytest.raises(CheckpointError, match='HF_HUB_OFFLINE'):
                fetch(place)

    def test_of_a_full_disk(self, hub, monkeypatch):
        import huggingface_hub

        def full(*_, **__):
            raise OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(huggingface_hub, 'hf_hub_download', full)
        with pytest.raises(CheckpointError, match=r'no space in .*HF_HOME'):
            fetch('org/name/x.pt')
