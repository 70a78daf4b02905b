from __future__ import annotations

import importlib

import pytest

from ..server import Server


@pytest.fixture
def hub(server, tmp_path, monkeypatch) -> Server:
    """The server, taken for the Hugging Face hub."""
    huggingface_hub = pytest.importorskip('huggingface_hub')
    constants = importlib.import_module('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'ENDPOINT', server.url)
    template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    files = huggingface_hub.HfApi(endpoint=server.url).list_repo_files
    monkeypatch.setattr(huggingface_hub, 'list_repo_files', files)
    return server
