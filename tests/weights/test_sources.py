from dataclasses import replace

import pytest

from hiera_mm.errors import CheckpointError
from hiera_mm.weights import sources
from hiera_mm.weights.catalog import CATALOG
from hiera_mm.weights.sources import locate

CONTENT = bytes(range(256)) * 10


def test_a_path_is_returned_as_it_is(tmp_path, monkeypatch):
    assert locate(tmp_path / 'x.pth') == tmp_path / 'x.pth'
    monkeypatch.setenv('HOME', str(tmp_path))
    assert locate('~/x.pth') == tmp_path / 'x.pth'


def test_a_url(server):
    assert locate(server.put('/x.pth', CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('sam2.1://lrage', "did you mean 'sam2.1://large'"),
        ('release://base/mae', "did you mean 'release://base/mae_in1k'"),
        ('timm://hiera_bse_224.mae', "did you mean 'timm://hiera_base_224.mae'"),
        ('s3://bucket/x.pth', 'python -m hiera_mm.weights'),
        ('hf://hiera', 'hf://organisation/repository'),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(CheckpointError, match=message):
        locate(name)


def test_size_and_hash_of_a_known_file_are_checked(server, monkeypatch):
    name = 'sam2://tiny'
    entry = replace(CATALOG[name], url=server.put('/x.pt', CONTENT))
    monkeypatch.setitem(CATALOG, name, entry)
    for source in (name, entry.url):
        with pytest.raises(CheckpointError, match='2,560 bytes instead of 155,906,050'):
            locate(source)
        monkeypatch.setitem(CATALOG, name, replace(entry, size=len(CONTENT)))
        with pytest.raises(CheckpointError, match=f'should begin with {entry.sha256}'):
            locate(source)
        monkeypatch.setitem(CATALOG, name, entry)


def test_a_name_of_timm(hub):
    repository = 'hiera_small_abswin_256.sbb2_e200_in12k'
    hub.put(f'/timm/{repository}/resolve/main/model.safetensors', CONTENT)
    assert locate(f'timm://{repository}').read_bytes() == CONTENT


class TestLicence:
    @pytest.fixture
    def told(self, monkeypatch):
        """Whether the user is told of the licence when a source is asked for."""
        lines = []
        monkeypatch.setattr(sources, 'print_log', lambda line, **_: lines.append(line))

        def is_told(source: str) -> bool:
            lines.clear()
            locate(source)
            return len(lines) == 1 and lines[0].endswith('not for commercial use.')

        return is_told

    def test_is_told_at_the_download_only(self, server, monkeypatch, told):
        name = 'release://tiny/mae_in1k'
        entry = replace(CATALOG[name], url=server.put('/x.pth', CONTENT))
        monkeypatch.setitem(CATALOG, name, entry)
        assert told(name)
        assert not told(name)

    def test_is_told_of_a_known_address(self, server, monkeypatch, told):
        name = 'release://tiny/mae_in1k'
        entry = replace(CATALOG[name], url=server.put('/x.pth', CONTENT))
        monkeypatch.setitem(CATALOG, name, entry)
        assert told(entry.url)

    def test_is_told_of_a_file_of_the_hub(self, hub, told):
        hub.put('/facebook/hiera-tiny-224-hf/resolve/main/x.bin', CONTENT)
        hub.put('/facebook/sam2-hiera-tiny/resolve/main/x.bin', CONTENT)
        assert told('hf://facebook/hiera-tiny-224-hf/x.bin')
        assert not told('hf://facebook/hiera-tiny-224-hf/x.bin')
        assert not told('hf://facebook/sam2-hiera-tiny/x.bin')

    def test_is_not_told_of_free_and_unknown_files(self, server, monkeypatch, told):
        entry = CATALOG['sam2://tiny']
        free = replace(entry, url=server.put('/y.pth', CONTENT), size=None, sha256=None)
        monkeypatch.setitem(CATALOG, 'sam2://tiny', free)
        assert not told('sam2://tiny')
        assert not told(server.put('/z.pth', CONTENT))
