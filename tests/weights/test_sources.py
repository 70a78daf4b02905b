import errno
import hashlib
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from hiera_mm.errors import CheckpointError
from hiera_mm.weights import sources
from hiera_mm.weights.catalog import CATALOG
from hiera_mm.weights.files import read_file
from hiera_mm.weights.sources import cache_folder, locate

CONTENT = save({'a': torch.arange(50_000.0)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def kept():
    """The files in the cache, but for locks."""
    return [p for p in cache_folder().rglob('*') if p.is_file() and p.name != 'lock']


def test_a_path_is_returned_as_it_is(tmp_path, monkeypatch):
    assert locate(tmp_path / 'x.pth') == tmp_path / 'x.pth'
    monkeypatch.setenv('HOME', str(tmp_path))
    assert locate('~/x.pth') == tmp_path / 'x.pth'


def test_a_file_is_downloaded_once(server, capfd):
    url = server.put('/models/x.safetensors', CONTENT)
    path = locate(url)
    assert path.read_bytes() == CONTENT
    assert path.name == 'x.safetensors'
    assert '100%' in capfd.readouterr().err
    server.files.clear()
    before = list(server.requests)
    assert locate(url) == path
    assert server.requests == before
    assert kept() == [path]


def test_two_files_of_one_name_are_two(server):
    first = locate(server.put('/a/x.pth', CONTENT))
    second = locate(server.put('/b/x.pth', CONTENT[::-1]))
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[::-1])


def test_a_cut_connection_leaves_nothing_and_can_be_tried_again(server):
    url = server.put('/x.pth', CONTENT)
    server.cut['/x.pth'] = 2
    with pytest.raises(CheckpointError, match=r'broke off after [\d,]+ of [\d,]+ bytes'):
        locate(url)
    assert kept() == []
    assert locate(url).read_bytes() == CONTENT


def test_hashes_are_checked(server):
    url = server.put('/x.pth', CONTENT)
    named = server.put(f'/x-{SHA256[:8]}.pth', CONTENT)
    assert locate(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
    assert locate(named).read_bytes() == CONTENT
    before = kept()
    for wrong in (f'{url}#sha256={"0" * 64}', server.put('/y-01234567.pth', CONTENT)):
        with pytest.raises(CheckpointError, match='not the file that was asked for'):
            locate(wrong)
    assert kept() == before
    with pytest.raises(CheckpointError, match='hexadecimal'):
        locate(f'{url}#sha256=xyz')


@pytest.mark.parametrize(
    ('content', 'message'),
    [(None, 'HTTP Error 404'), (b'\n<!DOCTYPE html><html>Sign in', 'is a web page')],
)
def test_what_is_no_file_of_weights(server, content, message):
    url = server.url + '/x.pth' if content is None else server.put('/x.pth', content)
    with pytest.raises(CheckpointError, match=message):
        locate(url)
    assert kept() == []


def test_a_dead_server(server):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match=r'cannot be downloaded: .*refused.*by other means'):
        locate(f'http://127.0.0.1:{port}/x.pth')
    with pytest.raises(CheckpointError, match=r'cannot be downloaded: .*Name or|cannot be downl'):
        locate('http://no.such.host.invalid/x.pth')


def test_a_server_that_says_nothing(server, monkeypatch):
    monkeypatch.setattr(sources, 'TIMEOUT', 0.2)
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        with pytest.raises(CheckpointError, match='timed out'):
            locate(f'http://127.0.0.1:{silent.getsockname()[1]}/x.pth')
    assert socket.getdefaulttimeout() is None


def test_no_room_is_seen_before_the_download(server, monkeypatch):
    url = server.put('/x.pth', CONTENT)
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r'no space.*HIERA_MM_CACHE'):
        locate(url)
    assert server.requests == ['GET /x.pth']
    assert kept() == []


def test_a_disk_that_fills_while_downloading(server, monkeypatch):
    url = server.put('/x.pth', CONTENT)

    def full(_, dst, **__):
        Path(dst).write_bytes(CONTENT[:100])
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', full)
    with pytest.raises(CheckpointError, match='no space for'):
        locate(url)
    assert kept() == []


def test_several_processes_download_once(server):
    url = server.put('/x.pth', CONTENT)
    code = f'from hiera_mm.weights.sources import locate; print(locate({url!r}))'
    running = [
        subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip().splitlines()[-1] for process in running}
    assert len(paths) == 1
    assert [process.returncode for process in running] == [0, 0]
    assert server.requests.count('GET /x.pth') == 2  # a question and the file


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('sam2.1://lrage', "did you mean 'sam2.1://large'"),
        ('release://base/mae', "did you mean 'release://base/mae_in1k'"),
        ('s3://bucket/x.pth', 'python -m hiera_mm.weights'),
        ('hf://hiera', 'hf://organisation/repository'),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(CheckpointError, match=message):
        locate(name)


def test_non_commercial_weights_are_announced_once(server, monkeypatch, caplog, capfd):
    name = 'release://tiny/mae_in1k'
    entry = replace(CATALOG[name], url=server.put('/x.pth', CONTENT))
    monkeypatch.setitem(CATALOG, name, entry)
    free = replace(CATALOG['sam2://tiny'], url=entry.url)
    monkeypatch.setitem(CATALOG, 'sam2://tiny', free)

    def told(name):
        capfd.readouterr()
        locate(name)
        out = capfd.readouterr()
        return 'not for commercial use' in out.out + out.err

    assert told(name)
    assert not told(name)
    assert not told('sam2://tiny')


class TestHub:
    @pytest.fixture
    def hub(self, server, tmp_path, monkeypatch):
        """The server, as the hub of a fresh process would find it."""
        huggingface_hub = pytest.importorskip('huggingface_hub')
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, 'ENDPOINT', server.url)
        template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
        return server

    def put(self, hub, file, content):
        hub.put(f'/org/name/resolve/main/{file}', content)

    def test_the_usual_file(self, hub):
        self.put(hub, 'model.safetensors', CONTENT)
        assert torch.equal(read_file(locate('hf://org/name'))['a'], torch.arange(50_000.0))

    def test_a_named_file(self, hub):
        self.put(hub, 'folder/x.pt', CONTENT)
        assert locate('hf://org/name/folder/x.pt').read_bytes() == CONTENT

    def test_shards(self, hub):
        index = {'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}
        self.put(hub, 'model.safetensors.index.json', json.dumps(index).encode())
        self.put(hub, 'one.safetensors', CONTENT)
        self.put(hub, 'two.safetensors', save({'b': torch.ones(3)}))
        found = read_file(locate('hf://org/name'))
        assert found.keys() == {'a', 'b'}

    def test_a_repository_without_the_usual_files(self, hub):
        self.put(hub, 'sam2_hiera_tiny.pt', CONTENT)
        with pytest.raises(
            CheckpointError, match=r'hf://org/name has no model\.safetensors.*/FILE'
        ):
            locate('hf://org/name')
        with pytest.raises(CheckpointError, match=r'hf://org/name has no x\.pt'):
            locate('hf://org/name/x.pt')

    def test_a_cut_connection(self, hub):
        self.put(hub, 'model.safetensors', CONTENT)
        hub.cut['/org/name/resolve/main/model.safetensors'] = 1
        assert locate('hf://org/name').read_bytes() == CONTENT  # the hub's library tries again

    def test_offline(self, hub, monkeypatch):
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
        with pytest.raises(CheckpointError, match=r'hf://org/name cannot be downloaded'):
            locate('hf://org/name')
        assert hub.requests == []

    def test_a_name_of_timm(self, hub, monkeypatch):
        repository = 'hiera_small_abswin_256.sbb2_e200_in12k'
        hub.put(f'/timm/{repository}/resolve/main/model.safetensors', CONTENT)
        assert locate(f'timm://{repository}').read_bytes() == CONTENT
