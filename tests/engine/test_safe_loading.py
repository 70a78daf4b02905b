from __future__ import annotations

import pickle

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint

from hiera_mm.engine import CheckpointError, make_loading_safe
from hiera_mm.weights.reading import read_checkpoint


@pytest.fixture
def safe():
    make_loading_safe()


class Linear(BaseModule):
    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = torch.nn.Linear(2, 2)


@pytest.mark.parametrize('zipped', [True, False])
class TestTrap:
    def test_is_real(self, trap, zipped, monkeypatch):
        monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
        path, marker = trap(zipped=zipped)
        torch.load(path, weights_only=False)
        assert marker.exists()

    def test_read_checkpoint_refuses(self, trap, zipped):
        path, marker = trap(zipped=zipped)
        with pytest.raises(CheckpointError, match=r'nothing in it was run: it asks for .*open'):
            read_checkpoint(path)
        assert not marker.exists()

    def test_torch_refuses_even_if_asked(self, trap, zipped, safe):
        path, marker = trap(zipped=zipped)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=False)
        assert not marker.exists()

    def test_mmengine_refuses(self, trap, zipped, safe):
        path, marker = trap(zipped=zipped)
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            load_checkpoint(Linear(), path)
        assert not marker.exists()

    def test_init_cfg_refuses(self, trap, zipped, safe):
        path, marker = trap(zipped=zipped)
        model = Linear(init_cfg=dict(type='Pretrained', checkpoint=path))
        with pytest.raises(CheckpointError, match='nothing in it was run'):
            model.init_weights()
        assert not marker.exists()

    def test_the_forks_other_backends_refuse(self, trap, zipped, safe):
        if not hasattr(mmengine_checkpoint, '_safe_torch_load'):
            pytest.skip('only onedl-mmengine has a fallback')
        path, marker = trap(zipped=zipped)
        with pytest.raises(pickle.UnpicklingError):
            mmengine_checkpoint._safe_torch_load(path)
        assert not marker.exists()


def test_safe_loading_outlives_the_opposite_wish(trap, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    make_loading_safe()
    path, marker = trap()
    with pytest.raises(CheckpointError, match='nothing in it was run'):
        read_checkpoint(path)
    assert not marker.exists()


class Reach:
    """Pickled, it asks for an attribute of `HistoryBuffer`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, self.name)


def test_getattr_reaches_statistics_only(tmp_path, safe):
    path = tmp_path / 'reach.pth'
    torch.save({'x': Reach('mean')}, path)
    assert read_checkpoint(path)['x'] is HistoryBuffer.mean
    torch.save({'x': Reach('__init__')}, path)
    with pytest.raises(CheckpointError, match=r'builtins\.getattr'):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r'builtins\.getattr'):
        load_checkpoint(Linear(), str(path))


def test_getattr_of_the_forks_own_list_is_gone(tmp_path, safe):
    if not hasattr(mmengine_checkpoint, '_safe_torch_load'):
        pytest.skip('only onedl-mmengine allows it')
    torch.save({'x': Reach('__init__')}, tmp_path / 'reach.pth')
    with pytest.raises(pickle.UnpicklingError, match='getattr'):
        mmengine_checkpoint._safe_torch_load(tmp_path / 'reach.pth')
