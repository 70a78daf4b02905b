from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint

from hiera_mm.engine import CheckpointError, make_loading_safe, read_checkpoint


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


def test_what_training_saves_is_read(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    saved = {
        'state_dict': OrderedDict(weight=torch.ones(2)),
        'message_hub': {'log_scalars': {'loss': history}, 'resumed_keys': {'loss': True}},
        'meta': {'epoch': 3, 'score': np.float64(0.5), 'seeds': np.arange(3), 'ok': np.bool_(True)},
    }
    torch.save(saved, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(read['state_dict']['weight'], torch.ones(2))
    assert read['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert read['meta']['score'] == 0.5
    assert read['meta']['seeds'].tolist() == [0, 1, 2]
    assert read['meta']['ok']


def test_file_of_numpy_1_is_read(tmp_path):
    torch.save({'meta': np.arange(3)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    old = (tmp_path / 'a.pth').read_bytes()
    assert b'numpy' in old
    renamed = old.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    (tmp_path / 'old.pth').write_bytes(renamed)
    assert read_checkpoint(tmp_path / 'old.pth')['meta'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('zipped', [True, False])
def test_cut_in_half(tmp_path, zipped):
    path = tmp_path / 'cut.pth'
    weights = {'state_dict': {'weight': torch.rand(1000)}}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r'cut\.pth is (not a checkpoint, or is )?damaged'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'it is empty'),
        (b'\n<!DOCTYPE html><html>404', 'it is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), 'is not a checkpoint'),
        (b'PK\x03\x04' + bytes(100), 'is damaged'),
        (b'hello', 'is not a checkpoint'),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_folder_and_missing_file_name_what_is_there(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'epoch_3.pth')
    with pytest.raises(CheckpointError, match=r'is a folder, not a checkpoint.*has epoch_3\.pth'):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r'does not exist.*has epoch_3\.pth'):
        read_checkpoint(tmp_path / 'epoch_4.pth')
    with pytest.raises(CheckpointError, match='does not exist'):
        read_checkpoint(tmp_path / 'nowhere' / 'epoch_4.pth')


def test_tensor_and_program_are_no_checkpoints(tmp_path):
    torch.save(torch.ones(2), tmp_path / 'tensor.pth')
    with pytest.raises(CheckpointError, match='holds a Tensor'):
        read_checkpoint(tmp_path / 'tensor.pth')
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'program.pth')
    with pytest.raises(CheckpointError, match='TorchScript program'):
        read_checkpoint(tmp_path / 'program.pth')
