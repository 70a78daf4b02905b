"""Checkpoints are read without running them, written whole or not at all, and found again."""

from __future__ import annotations

import pickle
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import mmcv
import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint

from hiera_mm.engine import CheckpointError, UserError, make_loading_safe
from hiera_mm.engine.checkpoints import (
    UNFINISHED,
    latest_whole_checkpoint,
    make_saving_safe,
    use_resume,
)
from hiera_mm.weights.reading import read_checkpoint

onedl_only = pytest.mark.skipif(
    not hasattr(mmengine_checkpoint, '_safe_torch_load'), reason='only onedl-mmengine has it'
)


class Linear(BaseModule):
    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = torch.nn.Linear(2, 2)


class Reach:
    """Pickled, it asks for an attribute of `HistoryBuffer`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, self.name)


class TestReading:
    @pytest.mark.parametrize('zipped', [True, False])
    def test_a_trap_is_sprung_by_nobody(self, trap, zipped, monkeypatch):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # somebody's opposite wish
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
        make_loading_safe()
        path, marker = trap(zipped=zipped)
        model = Linear(init_cfg=dict(type='Pretrained', checkpoint=path))
        refused = r'nothing in it was run: it asks for .*open'
        for load in (
            lambda: read_checkpoint(path),
            lambda: load_checkpoint(Linear(), path),
            model.init_weights,
        ):
            with pytest.raises(CheckpointError, match=refused):
                load()
        for load in (torch.load, getattr(mmengine_checkpoint, '_safe_torch_load', torch.load)):
            with pytest.raises(pickle.UnpicklingError):
                load(path, weights_only=False)
        assert not marker.exists()
        monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
        torch.load(path, weights_only=False)
        assert marker.exists()  # it was a real one

    def test_a_web_server_is_trusted_no_more_than_a_disk(self, trap, server):
        make_loading_safe()
        path, marker = trap()
        url = server.put('/trap.pth', Path(path).read_bytes())
        with pytest.raises(CheckpointError, match=r'nothing in it was run: it asks for .*open'):
            load_checkpoint(Linear(), url)
        assert not marker.exists()

    def test_a_training_goes_on_from_a_web_server(self, trained_segmenter, server, tmp_path):
        url = server.put('/a.pth', Path(trained_segmenter.checkpoint).read_bytes())
        how = dict(train_cfg__max_iters=2, load_from=url, resume=True)
        assert trained_segmenter.train(tmp_path, **how).iter == 2
        assert server.requests == ['GET /a.pth']  # then it is in the cache

    def test_getattr_reaches_statistics_only(self, tmp_path):
        make_loading_safe()
        path = tmp_path / 'reach.pth'
        torch.save({'x': Reach('mean')}, path)
        assert read_checkpoint(path)['x'] is HistoryBuffer.mean
        torch.save({'x': Reach('__init__')}, path)
        with pytest.raises(CheckpointError, match=r'builtins\.getattr'):
            load_checkpoint(Linear(), str(path))

    @onedl_only
    def test_getattr_of_the_forks_own_list_is_gone(self, tmp_path):
        make_loading_safe()
        torch.save({'x': Reach('__init__')}, tmp_path / 'reach.pth')
        with pytest.raises(pickle.UnpicklingError, match='getattr'):
            mmengine_checkpoint._safe_torch_load(tmp_path / 'reach.pth')


@contextmanager
def small_disk(size):
    """Let no file grow beyond a size, which ends in an error as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestWriting:
    def test_a_file_is_replaced_as_a_whole(self, tmp_path):
        make_saving_safe(Config({}))
        file = tmp_path / 'folder' / 'a.pth'
        backend = get_file_backend(str(file))
        backend.put(b'old', str(file))
        refused = r'a\.pth \(0\.0 MiB\) cannot be written: .*--resume'
        with small_disk(1000), pytest.raises(UserError, match=refused):
            backend.put(b'new' * 1000, str(file))
        assert file.read_bytes() == b'old'
        assert [path.name for path in file.parent.iterdir()] == ['a.pth']
        (file.parent / f'a.pth{UNFINISHED}').write_bytes(b'half')  # as a kill would leave it
        backend.put(b'new', str(file))
        assert file.read_bytes() == b'new'
        assert [path.name for path in file.parent.iterdir()] == ['a.pth']

    def test_a_drawing_is_not_called_a_checkpoint(self, tmp_path):
        make_saving_safe(Config({}))
        image, file = np.random.randint(255, size=(64, 64, 3)), str(tmp_path / 'a.png')
        refused = pytest.raises(UserError, match=r'a\.png .* cannot be written')
        with small_disk(1000), refused as raised:
            mmcv.imwrite(image, file)
        assert not isinstance(raised.value, CheckpointError)

    def test_the_only_checkpoint_stays_until_the_next_is_there(self, trained_segmenter, tmp_path):
        options = dict(
            train_cfg__max_iters=3,
            train_cfg__val_interval=3,
            default_hooks__checkpoint__max_keep_ckpts=1,
            default_hooks__checkpoint__save_best='mIoU',
        )
        saved = tmp_path / 'iter_1.pth'
        shutil.copy(trained_segmenter.checkpoint, saved)
        content = saved.read_bytes()
        refused = pytest.raises(UserError, match=r'iter_2\.pth .* cannot be written')
        with small_disk(len(content) // 2), refused:
            trained_segmenter.train(tmp_path, dict(resume='auto'), **options)
        assert saved.read_bytes() == content
        runner = trained_segmenter.train(tmp_path, dict(resume='auto'), **options)
        names = sorted(path.name for path in tmp_path.glob('*.pth*'))
        assert names == ['best_mIoU_iter_3.pth', 'iter_3.pth']
        state = read_checkpoint(tmp_path / 'iter_3.pth')['state_dict']
        assert all(torch.equal(state[k], v) for k, v in runner.model.state_dict().items())

    def test_a_better_checkpoint_replaces_the_best_after_it_is_whole(
        self, segmenter, tmp_path, monkeypatch
    ):
        scores = iter([0.1, 0.3, 0.2])
        monkeypatch.setattr(
            'mmengine.evaluator.Evaluator.evaluate', lambda *_: {'mIoU': next(scores)}
        )
        segmenter.train(
            tmp_path,
            train_cfg__max_iters=3,
            train_cfg__val_interval=1,
            default_hooks__checkpoint__max_keep_ckpts=2,
            default_hooks__checkpoint__save_best='mIoU',
        )
        names = sorted(path.name for path in tmp_path.glob('*.pth'))
        assert names == ['best_mIoU_iter_2.pth', 'iter_2.pth', 'iter_3.pth']


def save(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        torch.save({'state_dict': {'a': torch.zeros(1)}}, folder / name)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


class TestTheLatest:
    def test_is_none_where_none_was_noted_or_numbered(self, tmp_path):
        assert latest_whole_checkpoint(tmp_path) is None
        (tmp_path / 'last_checkpoint').touch()  # emptied, and killed before it was written
        save(tmp_path, 'best_mIoU_iter_3.pth', 'other.pth')
        assert latest_whole_checkpoint(tmp_path) is None

    def test_is_the_one_of_the_highest_number_that_can_be_read(self, tmp_path, logged):
        save(tmp_path, 'iter_90.pth', 'iter_800.pth', 'iter_1000.pth')
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_1000.pth')
        assert not logged
        cut(tmp_path / 'iter_1000.pth')
        (tmp_path / 'iter_800.pth').write_bytes(b'')
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_90.pth')
        assert ['iter_1000.pth' in logged[0], 'iter_800.pth' in logged[1]] == [True, True]
        assert all('Going on from' in message for message in logged)
        cut(tmp_path / 'iter_90.pth')
        with pytest.raises(CheckpointError, match='no checkpoint of this training can be read'):
            latest_whole_checkpoint(tmp_path)

    def test_is_of_the_kind_that_was_noted(self, tmp_path):
        save(tmp_path, 'iter_5000.pth', 'epoch_2.pth')
        (tmp_path / 'last_checkpoint').write_text('/moved/since/epoch_2.pth')
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')

    def test_may_be_in_another_folder(self, tmp_path):
        save(tmp_path / 'out', 'epoch_1.pth', 'epoch_2.pth')
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'out' / 'epoch_2.pth'))
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'out' / 'epoch_2.pth')

    def test_may_have_a_name_of_the_users_own(self, tmp_path):
        save(tmp_path, 'step7.pth')
        (tmp_path / 'last_checkpoint').write_text('/moved/since/step7.pth')
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'step7.pth')
        cut(tmp_path / 'step7.pth')
        with pytest.raises(CheckpointError, match=r'step7\.pth'):
            latest_whole_checkpoint(tmp_path)

    def test_is_resumed_from_if_there_is_one(self, tmp_path, logged):
        start = dict(work_dir=str(tmp_path), load_from='start.pth', resume=False)
        cfg = Config(start)
        use_resume(cfg, 'auto')
        assert cfg.to_dict() == start
        assert 'starts anew' in logged[0]
        save(tmp_path, 'epoch_2.pth')
        use_resume(cfg, 'auto')
        assert cfg.resume
        assert cfg.load_from == str(tmp_path / 'epoch_2.pth')
        use_resume(cfg, 'a.pth')
        assert cfg.load_from == 'a.pth'

    @pytest.mark.parametrize(
        ('said', 'wanted'),
        [
            (dict(resume=True), 'epoch_1.pth'),  # epoch_2.pth, which mmengine would take, is cut
            (dict(resume='auto'), 'epoch_1.pth'),
            (dict(resume='b.pth'), 'b.pth'),
            (dict(resume=True, load_from='a.pth'), 'a.pth'),
            (dict(resume=False, load_from='a.pth'), None),
            (dict(), None),
        ],
    )
    def test_a_config_resumes_as_the_option_does(self, tmp_path, logged, said, wanted):
        save(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
        cut(tmp_path / 'epoch_2.pth')
        cfg = Config(dict(work_dir=str(tmp_path), **said))
        use_resume(cfg, None)
        assert cfg.resume == (wanted is not None)
        assert Path(cfg.get('load_from') or '').name == (wanted or said.get('load_from', ''))
