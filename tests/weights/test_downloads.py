import builtins
import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_mm.errors import CheckpointError
from hiera_mm.weights import downloads
from hiera_mm.weights.downloads import cache_folder, download, place_of

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def kept() -> list[Path]:
    """The files in the cache, but for locks."""
    return [p for p in cache_folder().rglob('*') if p.is_file() and p.name != 'lock']


def test_a_file_is_downloaded_once(server, capfd):
    url = server.put('/models/x.safetensors', CONTENT)
    path = download(url)
    assert path.read_bytes() == CONTENT
    assert path.name == 'x.safetensors'
    assert '100%' in capfd.readouterr().err
    server.files.clear()
    before = list(server.requests)
    assert download(url) == path
    assert server.requests == before
    assert kept() == [path]


def test_two_files_of_one_name_are_two(server):
    first = download(server.put('/a/x.pth', CONTENT))
    second = download(server.put('/b/x.pth', CONTENT[::-1]))
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[::-1])


@pytest.mark.parametrize('length', [None, 'chunked'])
def test_a_cut_connection_leaves_nothing_and_can_be_tried_again(server, length):
    url = server.put('/x.pth', CONTENT)
    if length:
        server.lengths['/x.pth'] = length
    server.cut['/x.pth'] = 2  # the question and the download
    with pytest.raises(CheckpointError, match=r'broke off after [\d,]+ of [\d,]+ |IncompleteRead'):
        download(url)
    assert kept() == []
    assert download(url).read_bytes() == CONTENT


def test_a_length_that_is_too_large(server):
    server.lengths['/x.pth'] = len(CONTENT) + 1
    with pytest.raises(CheckpointError, match='broke off after 256,000 of 256,001 bytes'):
        download(server.put('/x.pth', CONTENT))
    assert kept() == []


def test_a_file_of_unknown_length_needs_a_hash(server):
    url = server.put('/x.pth', CONTENT)
    server.lengths['/x.pth'] = 'none'
    with pytest.raises(CheckpointError, match='does not say how long'):
        download(url)
    assert download(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
    server.cut['/y.pth'], server.lengths['/y.pth'] = 2, 'none'
    with pytest.raises(CheckpointError, match='not the file that was asked for'):
        download(f'{server.put("/y.pth", CONTENT)}#sha256={SHA256}')


def test_hashes_are_checked(server):
    url = server.put('/x.pth', CONTENT)
    # 12 digits: the first 8 could be without a letter, which is taken for a date.
    named = server.put(f'/x-{SHA256[:12]}.pth', CONTENT)
    assert download(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
    assert download(named).read_bytes() == CONTENT
    assert download(url, len(CONTENT), SHA256).read_bytes() == CONTENT
    before = kept()
    for wrong in (f'{url}#sha256={"0" * 64}', server.put('/y-0123abcd.pth', CONTENT)):
        with pytest.raises(CheckpointError, match='not the file that was asked for'):
            download(wrong)
    with pytest.raises(CheckpointError, match='256,000 bytes instead of 5'):
        download(url, 5)
    for wrong in ('xyz', '', 'abc'):
        with pytest.raises(CheckpointError, match='hexadecimal'):
            download(f'{url}#sha256={wrong}')
    assert kept() == before


def test_a_file_that_was_not_compared_does_not_pass_for_the_right_one(server):
    url = server.put('/x.pth', CONTENT)
    download(url)
    with pytest.raises(CheckpointError, match='not the file that was asked for'):
        download(f'{url}#sha256={"0" * 64}')


def test_a_date_is_no_hash(server):
    assert download(server.put('/x-20240131.pth', CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    'name', ['a%2F..%2F..%2F..%2Fescaped', '..', '%2e%2e%2f', 'a%00b', 'x' * 300, '', '.hidden']
)
def test_a_name_cannot_lead_out_of_the_cache(name):
    place = place_of(f'https://host/folder/{name}')
    assert place.parent.parent == cache_folder()
    assert place.resolve().parent.parent == cache_folder().resolve()
    assert 0 < len(place.name) <= 100
    assert '\0' not in place.name


@pytest.mark.parametrize(
    ('content', 'status', 'message'),
    [
        (None, 404, 'HTTP Error 404'),
        (CONTENT, 503, 'HTTP Error 503'),
        (b'\n<!DOCTYPE html><html>Sign in', 200, 'is a web page'),
        (b'', 200, 'is empty'),
    ],
)
def test_what_is_no_file_of_weights(server, content, status, message):
    url = server.url + '/x.pth' if content is None else server.put('/x.pth', content)
    server.statuses['/x.pth'] = status
    with pytest.raises(CheckpointError, match=message):
        download(url)
    assert kept() == []


def test_a_dead_server(server):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match=r'cannot be downloaded: .*refused.*other means'):
        download(f'http://127.0.0.1:{port}/x.pth')
    with pytest.raises(CheckpointError, match=r'cannot be downloaded: .*other means'):
        download('http://no.such.host.invalid/x.pth')
    with pytest.raises(CheckpointError, match='is no address'):
        download('http://[::1/x.pth')


def test_a_dead_proxy_is_named(server, monkeypatch):
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:1')
    monkeypatch.setenv('no_proxy', '')
    with pytest.raises(CheckpointError, match='https_proxy'):
        download('http://example.invalid/x.pth')


def test_a_server_that_says_nothing(server, monkeypatch):
    monkeypatch.setattr(downloads, 'TIMEOUT', 0.2)
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        with pytest.raises(CheckpointError, match='timed out'):
            download(f'http://127.0.0.1:{silent.getsockname()[1]}/x.pth')
    assert socket.getdefaulttimeout() is None


def test_no_room_is_seen_before_the_download(server, little_room):
    with pytest.raises(CheckpointError, match=r'no space.*HIERA_MM_CACHE'):
        download(server.put('/x.pth', CONTENT))
    assert server.requests == ['GET /x.pth']
    assert kept() == []


def test_a_disk_that_fills_while_downloading(server, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:1000])

    def on_a_full_disk(file, mode='r', *args, **kwargs):
        if mode == 'w+b':  # as the downloader opens its file
            return io.BufferedRandom(Full(file, 'w+'))
        return opened(file, mode, *args, **kwargs)

    opened = builtins.open
    monkeypatch.setattr(builtins, 'open', on_a_full_disk)
    with pytest.raises(CheckpointError, match='no space for'):
        download(server.put('/x.pth', CONTENT))
    assert kept() == []


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('HIERA_MM_CACHE', str(tmp_path / 'file'))
    with pytest.raises(CheckpointError, match='HIERA_MM_CACHE'):
        download(server.put('/x.pth', CONTENT))


def test_what_a_killed_process_left_is_cleared_away(server):
    url = server.put('/x.pth', CONTENT)
    rest = place_of(url).with_name('x.pth.part.0123.partial')
    rest.parent.mkdir(parents=True)
    rest.write_bytes(CONTENT[:10])
    assert kept() == [rest]
    path = download(url)
    assert kept() == [path]


def test_several_processes_download_once(server):
    url = server.put('/x.pth', CONTENT)
    code = f'from hiera_mm.weights.downloads import download; print(download({url!r}))'
    running = [
        subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip().splitlines()[-1] for process in running}
    assert len(paths) == 1
    assert [process.returncode for process in running] == [0, 0]
    assert server.requests.count('GET /x.pth') == 2  # a question and the file


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('HIERA_MM_CACHE', '~/weights')
    assert cache_folder() == tmp_path / 'weights'
    monkeypatch.delenv('HIERA_MM_CACHE')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    assert cache_folder() == tmp_path / 'torch/hub/hiera_mm'
