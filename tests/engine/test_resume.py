from __future__ import annotations

import pytest
import torch

from hiera_mm.engine import CheckpointError, checkpoints


@pytest.fixture
def warned(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(checkpoints, 'print_log', lambda message, **_: messages.append(message))
    return messages


def save(folder, *names):
    for name in names:
        torch.save({'state_dict': {'a': torch.zeros(1)}}, folder / name)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def test_nothing_there(tmp_path):
    assert checkpoints.latest_whole_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').touch()  # emptied, and killed before it was written
    save(tmp_path, 'best_mIoU_iter_3.pth', 'other.pth')
    assert checkpoints.latest_whole_checkpoint(tmp_path) is None


def test_the_latest_by_number(tmp_path, warned):
    save(tmp_path, 'iter_90.pth', 'iter_800.pth', 'iter_1000.pth')
    assert checkpoints.latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_1000.pth')
    assert not warned


def test_one_that_is_damaged_is_passed_over(tmp_path, warned):
    save(tmp_path, 'iter_90.pth', 'iter_800.pth', 'iter_1000.pth')
    cut(tmp_path / 'iter_1000.pth')
    (tmp_path / 'iter_800.pth').write_bytes(b'')
    assert checkpoints.latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_90.pth')
    assert 'iter_1000.pth' in warned[0]
    assert 'iter_800.pth' in warned[1]
    assert all('Going on from' in message for message in warned)


def test_all_damaged(tmp_path):
    save(tmp_path, 'iter_1.pth', 'iter_2.pth')
    for file in tmp_path.glob('*.pth'):
        cut(file)
    with pytest.raises(CheckpointError, match='no checkpoint of this training can be read'):
        checkpoints.latest_whole_checkpoint(tmp_path)


def test_the_kind_that_was_noted_comes_first(tmp_path):
    save(tmp_path, 'iter_5000.pth', 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/since/epoch_2.pth')
    assert checkpoints.latest_whole_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')


def test_checkpoints_in_a_folder_of_their_own(tmp_path):
    work_dir, out = tmp_path / 'work', tmp_path / 'out'
    work_dir.mkdir()
    out.mkdir()
    save(out, 'epoch_1.pth', 'epoch_2.pth')
    (work_dir / 'last_checkpoint').write_text(str(out / 'epoch_2.pth'))
    assert checkpoints.latest_whole_checkpoint(work_dir) == str(out / 'epoch_2.pth')


def test_a_name_of_the_users_own(tmp_path):
    save(tmp_path, 'step7.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/since/step7.pth')
    assert checkpoints.latest_whole_checkpoint(tmp_path) == str(tmp_path / 'step7.pth')
    cut(tmp_path / 'step7.pth')
    with pytest.raises(CheckpointError, match=r'step7\.pth'):
        checkpoints.latest_whole_checkpoint(tmp_path)
