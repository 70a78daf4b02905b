from __future__ import annotations

import resource
import signal

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from hiera_mm.engine import CheckpointError, train
from hiera_mm.engine.checkpoints import UNFINISHED, make_saving_safe
from hiera_mm.weights.reading import read_checkpoint


@pytest.fixture(autouse=True)
def safe():
    make_saving_safe()


@pytest.fixture
def small_disk():
    """Let no file grow beyond a size, which ends in an error as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_as_a_whole(tmp_path, small_disk):
    file = tmp_path / 'folder' / 'a.pth'
    backend = get_file_backend(str(file))
    backend.put(b'old', str(file))
    small_disk(1000)
    with pytest.raises(CheckpointError, match=r'a\.pth \(0\.0 MiB\) cannot be written: .*--resume'):
        backend.put(b'new' * 1000, str(file))
    assert file.read_bytes() == b'old'
    assert [path.name for path in file.parent.iterdir()] == ['a.pth']
    backend.put(b'new', str(file))
    assert file.read_bytes() == b'new'


def test_what_a_kill_left_is_written_over(tmp_path):
    file = tmp_path / 'a.pth'
    left = tmp_path / f'a.pth{UNFINISHED}'
    left.write_bytes(b'half')
    get_file_backend(str(file)).put(b'whole', str(file))
    assert file.read_bytes() == b'whole'
    assert not left.exists()


def test_every_config_gets_the_careful_hook():
    hook = HOOKS.build(dict(type='CheckpointHook', interval=1))
    assert isinstance(hook, CheckpointHook)
    assert type(hook) is not CheckpointHook


def test_the_only_checkpoint_stays_until_the_next_is_there(segmenter, tmp_path, small_disk):
    options = {
        **segmenter.options,
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 3,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'default_hooks.checkpoint.save_best': 'mIoU',
    }
    first = {**options, 'train_cfg.max_iters': 1, 'default_hooks.checkpoint.save_best': None}
    train(segmenter.config, work_dir=str(tmp_path), cfg_options=first)
    saved = tmp_path / 'iter_1.pth'
    content = saved.read_bytes()
    small_disk(len(content) // 2)
    with pytest.raises(CheckpointError, match=r'iter_2\.pth .* cannot be written'):
        train(segmenter.config, work_dir=str(tmp_path), cfg_options=options, resume='auto')
    assert saved.read_bytes() == content
    small_disk(resource.RLIM_INFINITY)
    runner = train(segmenter.config, work_dir=str(tmp_path), cfg_options=options, resume='auto')
    names = sorted(path.name for path in tmp_path.glob('*.pth*'))
    assert names == ['best_mIoU_iter_3.pth', 'iter_3.pth']
    state = read_checkpoint(tmp_path / 'iter_3.pth')['state_dict']
    assert all(torch.equal(state[k], v) for k, v in runner.model.state_dict().items())


def test_a_better_checkpoint_replaces_the_best_after_it_is_whole(segmenter, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr('mmengine.evaluator.Evaluator.evaluate', lambda *_: {'mIoU': next(scores)})
    options = {
        **segmenter.options,
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'default_hooks.checkpoint.save_best': 'mIoU',
    }
    train(segmenter.config, work_dir=str(tmp_path), cfg_options=options)
    names = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert names == ['best_mIoU_iter_2.pth', 'iter_2.pth', 'iter_3.pth']
