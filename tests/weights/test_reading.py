from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from hiera_mm.errors import CheckpointError
from hiera_mm.weights.reading import read_checkpoint, read_file

TENSORS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.ones(2, dtype=torch.bfloat16)}


def same(found: dict) -> bool:
    return found.keys() == TENSORS.keys() and all(
        torch.equal(found[name], tensor) for name, tensor in TENSORS.items()
    )


@pytest.mark.parametrize('name', ['x.safetensors', 'x.pth', 'x', 'x.bin'])
def test_the_format_is_told_by_the_contents(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    assert same(read_file(tmp_path / name))
    torch.save(TENSORS, tmp_path / name)
    assert same(read_file(tmp_path / name))


def shards(folder: Path, suffix: str = 'safetensors') -> Path:
    files = {name: f'part-{i}.{suffix}' for i, name in enumerate(TENSORS)}
    for name, file in files.items():
        if suffix == 'safetensors':
            save_file({name: TENSORS[name]}, folder / file)
        else:
            torch.save({name: TENSORS[name]}, folder / file)
    index = folder / f'model.{suffix}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': files}))
    return index


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_shards_are_put_together(tmp_path, suffix):
    index = shards(tmp_path, suffix)
    assert same(read_file(index))
    (tmp_path / f'part-1.{suffix}').unlink()
    with pytest.raises(CheckpointError, match=r'names 2 files, and part-1\.\w+ is not beside it'):
        read_file(index)


def test_an_index_that_lies(tmp_path):
    (tmp_path / 'inside').mkdir()
    index = shards(tmp_path / 'inside')
    save_file({'other': torch.ones(1)}, tmp_path / 'inside' / 'part-1.safetensors')
    with pytest.raises(CheckpointError, match='promises tensors that its files lack: b'):
        read_file(index)
    save_file({'b': torch.zeros(1)}, tmp_path / 'secret.safetensors')
    for text, message in {
        '{"weight_map": 3}': "JSON with a 'weight_map' was expected",
        '{"weights": []}': "JSON with a 'weight_map' was expected",
        '{"weight_map": {"b": "../secret.safetensors"}}': r'secret\.safetensors is not beside it',
    }.items():
        index.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_file(index)


def test_a_folder_of_transformers(tmp_path):
    save_file(TENSORS, tmp_path / 'model.safetensors')
    assert same(read_file(tmp_path))


def test_safetensors_cut_short(tmp_path):
    path = tmp_path / 'x.safetensors'
    save_file(TENSORS, path)
    for end in (-3, 20):
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(CheckpointError, match=r'x\.safetensors is damaged'):
            read_file(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_no_pickle_is_run(trap, zipped):
    path, marker = trap(zipped=zipped)
    with pytest.raises(CheckpointError, match=r'nothing in it was run: it asks for .*open'):
        read_file(path)
    assert not marker.exists()


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
