import errno
import hashlib
import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from hiera_mm.errors import CheckpointError
from hiera_mm.weights import sources
from hiera_mm.weights.catalog import CATALOG
from hiera_mm.weights.reading import read_file
from hiera_mm.weights.sources import cache_folder, download, from_hub, locate

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def kept() -> list[Path]:
    """The files in the cache, but for locks."""
    return [p for p in cache_folder().rglob('*') if p.is_file() and p.name != 'lock']


@pytest.fixture
def publish(server, monkeypatch):
    """Put a file where a short name leads to."""

    def put(name: str, **known):
        entry = replace(CATALOG[name], address=server.put(f'/{name}', CONTENT), **known)
        monkeypatch.setitem(CATALOG, name, entry)
        return entry

    return put


@pytest.fixture
def told(monkeypatch):
    """Whether the user is told of the licence when a source is asked for."""
    lines = []
    monkeypatch.setattr(sources, 'print_log', lambda line, **_: lines.append(line))

    def is_told(source: str) -> bool:
        lines.clear()
        locate(source)
        return any(line.endswith('not for commercial use.') for line in lines)

    return is_told


class TestNames:
    def test_a_path_is_returned_as_it_is(self, tmp_path, monkeypatch):
        assert locate(tmp_path / 'x.pth') == tmp_path / 'x.pth'
        monkeypatch.setenv('HOME', str(tmp_path))
        assert locate('~/x.pth') == tmp_path / 'x.pth'

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('sam2.1://lrage', "did you mean 'sam2.1://large'"),
            ('release://base/mae', "did you mean 'release://base/mae_in1k'"),
            ('timm://hiera_bse_224.mae', "did you mean 'timm://hiera_base_224.mae'"),
            ('s3://bucket/x.pth', 'python -m hiera_mm.weights'),
            ('hf://hiera', 'hf://organisation/repository'),
            ('hf:///name', 'hf://organisation/repository'),
            ('http://[::1/x.pth', 'is no address'),
        ],
    )
    def test_unknown_ones(self, name, message):
        with pytest.raises(CheckpointError, match=message):
            locate(name)

    def test_size_and_hash_of_a_known_file_are_checked(self, publish):
        entry = publish('sam2://tiny')
        for source in ('sam2://tiny', entry.url):
            with pytest.raises(CheckpointError, match='256,000 bytes instead of 155,906,050'):
                locate(source)
        entry = publish('sam2://tiny', size=len(CONTENT))
        for source in ('sam2://tiny', entry.url):
            with pytest.raises(CheckpointError, match=f'should begin with {entry.sha256}'):
                locate(source)

    def test_timms_lead_to_the_hub(self, hub):
        repository = 'hiera_small_abswin_256.sbb2_e200_in12k'
        hub.put(f'/timm/{repository}/resolve/main/model.safetensors', CONTENT)
        assert locate(f'timm://{repository}').read_bytes() == CONTENT

    def test_a_licence_is_told_when_a_file_is_downloaded(self, publish, told, hub):
        entry = publish('release://tiny/mae_in1k')
        assert told('release://tiny/mae_in1k')
        assert not told('release://tiny/mae_in1k')
        assert not told(entry.url), 'the same file'
        assert told(publish('release://base/mae_in1k').url)
        publish('sam2://tiny', size=None, sha256=None)
        assert not told('sam2://tiny')
        assert not told(hub.put('/z.pth', CONTENT))
        hub.put('/facebook/hiera-tiny-224-hf/resolve/main/x.bin', CONTENT)
        hub.put('/facebook/sam2-hiera-tiny/resolve/main/x.bin', CONTENT)
        assert told('hf://facebook/hiera-tiny-224-hf/x.bin')
        assert not told('hf://facebook/hiera-tiny-224-hf/x.bin')
        assert not told('hf://facebook/sam2-hiera-tiny/x.bin')


class TestWebServers:
    def test_a_file_is_downloaded_once(self, server, capfd):
        url = server.put('/models/x.safetensors', CONTENT)
        path = locate(url)
        assert path.read_bytes() == CONTENT
        assert path.name == 'x.safetensors'
        assert '100%' in capfd.readouterr().err
        server.files.clear()
        assert locate(url) == path
        assert server.requests == ['GET /models/x.safetensors']
        assert kept() == [path]

    def test_what_torch_downloaded_is_taken_if_its_hash_is_right(
        self, server, tmp_path, monkeypatch
    ):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        address = f'http://127.0.0.1:1/x-{SHA256[:12]}.pth'  # where nobody answers
        file = tmp_path / 'hub' / 'checkpoints' / f'x-{SHA256[:12]}.pth'
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)
        assert download(address) == file
        file.write_bytes(CONTENT[1:])
        with pytest.raises(CheckpointError, match='cannot be downloaded'):
            download(address)

    def test_two_files_of_one_name_are_two(self, server):
        first = download(server.put('/a/x.pth', CONTENT))
        second = download(server.put('/b/x.pth', CONTENT[::-1]))
        assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[::-1])

    @pytest.mark.parametrize(
        ('length', 'message'),
        [
            (len(CONTENT), 'broke off after 128,000 of 256,000 bytes'),
            (len(CONTENT) + 1, 'broke off after 128,000 of 256,001 bytes'),
            ('chunked', 'IncompleteRead'),
        ],
    )
    def test_a_cut_connection_leaves_nothing_and_can_be_tried_again(self, server, length, message):
        url = server.put('/x.pth', CONTENT)
        server.lengths['/x.pth'] = length
        server.cut.add('/x.pth')
        with pytest.raises(CheckpointError, match=message):
            download(url)
        assert kept() == []
        server.cut.clear()
        server.lengths.clear()
        assert download(url).read_bytes() == CONTENT

    def test_a_file_of_unknown_length_needs_a_hash(self, server):
        url = server.put('/x.pth', CONTENT)
        server.lengths['/x.pth'] = 'none'
        with pytest.raises(CheckpointError, match='does not say how long'):
            download(url)
        assert download(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
        server.cut.add('/y.pth')
        server.lengths['/y.pth'] = 'none'
        with pytest.raises(CheckpointError, match='not the file that was asked for'):
            download(f'{server.put("/y.pth", CONTENT)}#sha256={SHA256}')

    def test_hashes_are_checked(self, server):
        url = server.put('/x.pth', CONTENT)
        # 12 digits: the first 8 could be without a letter, which is taken for a date.
        named = server.put(f'/x-{SHA256[:12]}.pth', CONTENT)
        dated = server.put('/x-20240131.pth', CONTENT)
        for right in (url, f'{url}#sha256={SHA256}', named, dated):
            assert download(right).read_bytes() == CONTENT
        before = kept()
        # Also if the file is there already, but was not compared with this hash.
        for wrong in (f'{url}#sha256={"0" * 64}', server.put('/y-0123abcd.pth', CONTENT)):
            with pytest.raises(CheckpointError, match='not the file that was asked for'):
                download(wrong)
        for wrong in ('xyz', '', 'abc'):
            with pytest.raises(CheckpointError, match='hexadecimal'):
                download(f'{url}#sha256={wrong}')
        assert kept() == before

    @pytest.mark.parametrize(
        'name', ['a%2F..%2F..%2F..%2Fx', '..', '%2e%2e%2f', 'a%00b', 'x' * 300, '', '.hidden']
    )
    def test_a_name_cannot_lead_out_of_the_cache(self, server, name):
        path = download(server.put(f'/folder/{name}', CONTENT))
        assert path.resolve().parent.parent == cache_folder().resolve()
        assert 0 < len(path.name) <= 100

    @pytest.mark.parametrize(
        ('content', 'status', 'message'),
        [
            (CONTENT, 404, 'HTTP Error 404'),
            (CONTENT, 503, 'HTTP Error 503'),
            (b'\n<!DOCTYPE html><html>Sign in', 200, 'is a web page'),
            (b'version https://git-lfs.github.com/spec/v1', 200, 'Git LFS pointer'),
            (b'', 200, 'is empty'),
        ],
    )
    def test_what_is_no_file_of_weights(self, server, content, status, message):
        server.statuses['/x.pth'] = status
        with pytest.raises(CheckpointError, match=message):
            download(server.put('/x.pth', content))
        assert kept() == []

    def test_one_that_cannot_be_reached(self, server, monkeypatch):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        for url in (f'http://127.0.0.1:{port}/x.pth', 'http://no.such.host.invalid/x.pth'):
            with pytest.raises(CheckpointError, match=r'cannot be downloaded: .*other means'):
                download(url)
        monkeypatch.setenv('http_proxy', 'http://127.0.0.1:1')
        monkeypatch.setenv('no_proxy', '')
        with pytest.raises(CheckpointError, match='https_proxy'):
            download('http://example.invalid/x.pth')

    def test_one_that_says_nothing(self, server, monkeypatch):
        def never(request, timeout):
            assert timeout == sources.TIMEOUT
            raise TimeoutError('timed out')

        monkeypatch.setattr(sources, 'urlopen', never)
        with pytest.raises(CheckpointError, match='cannot be downloaded: timed out'):
            download(server.url + '/x.pth')

    def test_no_room_is_seen_before_the_download(self, server, monkeypatch):
        usage = shutil.disk_usage('/')
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=1000))
        monkeypatch.setattr(Path, 'open', lambda *_: pytest.fail('a file was begun'))
        with pytest.raises(CheckpointError, match=r'no space.*HIERA_MM_CACHE'):
            download(server.put('/x.pth', CONTENT))

    def test_a_disk_that_fills_while_downloading(self, server, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(sources.tqdm, 'update', full)  # after a part has been written
        with pytest.raises(CheckpointError, match=r'no space for .*No space left'):
            download(server.put('/x.pth', CONTENT))
        assert kept() == []

    def test_a_cache_that_cannot_be_written(self, server, tmp_path, monkeypatch):
        (tmp_path / 'file').touch()
        monkeypatch.setenv('HIERA_MM_CACHE', str(tmp_path / 'file'))
        with pytest.raises(CheckpointError, match='HIERA_MM_CACHE'):
            download(server.put('/x.pth', CONTENT))

    def test_what_a_killed_process_left_is_written_over(self, server):
        path = download(server.put('/x.pth', CONTENT))
        path.rename(path.with_name('x.pth.part')).write_bytes(CONTENT[:10])
        assert download(f'{server.url}/x.pth').read_bytes() == CONTENT
        assert kept() == [path]

    def test_those_who_want_a_file_at_once_download_it_once(self, server, monkeypatch):
        both = threading.Barrier(2, timeout=60)

        class Lock(FileLock):
            def acquire(self, *args, **kwargs):
                both.wait()  # each has seen by now that the file is not there
                return super().acquire(*args, **kwargs)

        monkeypatch.setattr(sources, 'FileLock', Lock)
        url = server.put('/x.pth', CONTENT)
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(download, [url, url])
        assert first == second
        assert server.requests == ['GET /x.pth']

    def test_where_the_cache_is(self, monkeypatch, tmp_path):
        monkeypatch.setenv('HOME', str(tmp_path))
        monkeypatch.setenv('HIERA_MM_CACHE', '~/weights')
        assert cache_folder() == tmp_path / 'weights'
        monkeypatch.delenv('HIERA_MM_CACHE')
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
        assert cache_folder() == tmp_path / 'torch/hub/hiera_mm'


TENSORS = save({'a': torch.arange(5000.0)})
"""A file of safetensors."""
USUAL = '/org/name/resolve/main/model.safetensors'


class TestHub:
    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch):
        """The hub's client waits before it tries again."""
        monkeypatch.setattr('time.sleep', lambda _: None)

    @pytest.fixture
    def put(self, hub):
        """Publish the files of a repository."""

        def publish(repository: str = 'org/name', **files: bytes):
            for name, content in files.items():
                hub.put(f'/{repository}/resolve/main/{name}', content)
            tree = [{'type': 'file', 'path': name, 'size': 1, 'oid': '0'} for name in files]
            path = f'/api/models/{repository}/tree/main?recursive=true&expand=false'
            hub.put(path, json.dumps(tree).encode())

        return publish

    def test_the_usual_file_is_downloaded_once(self, hub, put):
        put(**{'model.safetensors': TENSORS, 'pytorch_model.bin': b'old', 'x.pt': b'other'})
        path = from_hub('org/name')
        assert path.read_bytes() == TENSORS
        before = list(hub.requests)
        hub.files.clear()
        assert from_hub('org/name') == path
        assert hub.requests == before

    def test_a_named_file(self, put):
        put(**{'model.safetensors': b'other', 'folder/x.pt': TENSORS})
        assert from_hub('org/name/folder/x.pt').read_bytes() == TENSORS

    @pytest.mark.parametrize('folder', ['', 'part/'])
    def test_shards_come_with_their_index(self, hub, put, folder):
        name = f'{folder}model.safetensors.index.json'
        index = {'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}
        put(
            **{
                name: json.dumps(index).encode(),
                f'{folder}one.safetensors': TENSORS,
                f'{folder}two.safetensors': save({'b': torch.ones(3)}),
            }
        )
        place = f'org/name/{name}' if folder else 'org/name'
        two = f'/org/name/resolve/main/{folder}two.safetensors'
        hub.statuses[two] = 404
        with pytest.raises(CheckpointError, match=r'no such file(.|\n)*two\.safetensors'):
            from_hub(place)
        del hub.statuses[two]
        assert read_file(from_hub(place)).keys() == {'a', 'b'}, 'the cache lacked a shard'
        before = list(hub.requests)
        assert read_file(from_hub(place)).keys() == {'a', 'b'}
        assert hub.requests == before

    def test_an_index_that_is_none(self, put):
        put(**{'model.safetensors.index.json': b'[]'})
        with pytest.raises(CheckpointError, match='no index'):
            from_hub('org/name')

    def test_the_only_checkpoint(self, put):
        put(**{'sam2_hiera_tiny.pt': TENSORS, 'README.md': b'', 'training.bin': b''})
        assert from_hub('org/name').name == 'sam2_hiera_tiny.pt'
        put('org/two', **{'a.pt': TENSORS, 'b.pth': TENSORS})
        with pytest.raises(CheckpointError, match=r'several .*a\.pt, b\.pth.*hf://org/two/FILE'):
            from_hub('org/two')
        put('org/none', **{'README.md': b''})
        with pytest.raises(CheckpointError, match='no file of weights'):
            from_hub('org/none')

    def test_a_cut_connection_leaves_nothing(self, hub, put):
        put(**{'model.safetensors': TENSORS})
        hub.cut.add(USUAL)
        with pytest.raises(CheckpointError):
            from_hub('org/name')
        hub.cut.clear()
        assert from_hub('org/name').read_bytes() == TENSORS

    @pytest.mark.parametrize(
        ('place', 'status', 'message'),
        [
            ('org/a name', 200, 'cannot be the name'),
            ('org/nothing', 200, 'hf://org/nothing'),
            ('org/name/x.pt', 200, r'no such file; .*org/name/tree/main(.|\n)*x\.pt'),
            ('org/name', 401, 'no repository org/name'),
            ('org/name', 403, 'consent.*/org/name,'),
            ('org/name', 500, 'HF_ENDPOINT'),
        ],
    )
    def test_what_is_said_of_an_error(self, hub, put, place, status, message):
        put(**{'model.safetensors': TENSORS})
        hub.statuses[USUAL] = status
        with pytest.raises(CheckpointError, match=message):
            from_hub(place)

    @pytest.mark.parametrize('place', ['org/name', 'org/name/x.pt'])
    def test_what_is_said_of_a_hub_out_of_reach(self, hub, monkeypatch, place):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
        template = 'http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        with pytest.raises(CheckpointError, match=r'127\.0\.0\.1:1.*HF_ENDPOINT'):
            from_hub(place)
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
        with pytest.raises(CheckpointError, match='HF_HUB_OFFLINE'):
            from_hub(place)

    def test_what_is_said_of_a_full_disk(self, hub, monkeypatch):
        import huggingface_hub

        def full(*_, local_files_only, **__):
            error = huggingface_hub.errors.LocalEntryNotFoundError('not in the cache')
            raise error if local_files_only else OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(huggingface_hub, 'hf_hub_download', full)
        with pytest.raises(CheckpointError, match=r'no space in .*HF_HOME'):
            from_hub('org/name/x.pt')
