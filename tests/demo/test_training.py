from __future__ import annotations

import json

import pytest

from demo.tasks import DETECTOR, SEGMENTER, DemoError
from demo.training import History, Training, read_history, say_evaluation, say_progress


@pytest.fixture
def make_training(tools, tmp_path, console):
    """Return a function that stands for another run of the demo."""

    def make(*options: str) -> Training:
        work_dir = tmp_path / 'demo'
        work_dir.mkdir(exist_ok=True)
        return Training(DETECTOR, ['train_cfg.max_iters=4', *options], work_dir, console)

    return make


def test_trained_and_tested_once(make_training, tools, tmp_path):
    training = make_training('log_level=ERROR')
    assert not training.trained
    paces = []
    training.train(paces.append)
    assert paces == pytest.approx([3 * 0.1])  # said once, after the first of four iterations
    assert training.trained
    assert not training.tested
    training.test()
    assert training.tested
    folder = tmp_path / 'demo' / 'detector'
    options = ['--cfg-options', 'train_cfg.max_iters=4', 'log_level=ERROR']
    test_arguments = [folder / 'iter_4.pth', '--work-dir', folder / 'test']
    assert tools.commands == [
        ['train.py', '--work-dir', str(folder), '--resume', *options],
        ['test.py', *map(str, test_arguments), '--out', str(folder / 'predictions.pkl'), *options],
    ]
    again = make_training('log_level=ERROR')
    assert again.tested
    assert not again.outdated
    assert again.record == training.record
    assert again.record.metrics['coco/bbox_mAP'] == 0.6
    assert again.record.seconds > 0

    training.predictions.unlink()
    assert again.trained
    assert not again.tested
    again.test()
    assert again.tested

    changed = make_training('log_level=INFO')
    assert changed.outdated
    changed.forget()
    assert not changed.outdated
    assert not changed.trained
    assert not changed.work_dir.exists()


def test_interrupted_training_goes_on_and_its_time_adds_up(make_training, tools):
    tools.stop_at = 3
    training = make_training()
    with pytest.raises(KeyboardInterrupt):
        training.train()
    training.checkpoint.write_bytes(b'half')  # it counts only once mmengine has named it
    again = make_training()
    assert not again.trained
    assert not again.outdated
    assert again.record.seconds > 0
    again.record.seconds = 100.0
    again.train()
    assert again.trained
    assert make_training().record.seconds > 100


@pytest.mark.parametrize('record', [None, '{"config": ', '{"other": 1}'])
def test_folder_without_a_record_of_ours_is_refused(make_training, tmp_path, record):
    folder = tmp_path / 'demo' / 'detector'
    folder.mkdir(parents=True)
    if record is not None:
        folder.with_suffix('.json').write_text(record)
    with pytest.raises(DemoError, match=r'was not made by .*detector\.json'):
        make_training()
    assert folder.exists()


@pytest.fixture
def log_start(tmp_path):
    """Write the log of one start of a training."""

    def write(start: str, records: list[dict], rest: str = '') -> None:
        file = tmp_path / start / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text(''.join(f'{json.dumps(record)}\n' for record in records) + rest)

    return write


def test_losses_and_scores_by_iteration(tmp_path, log_start):
    assert read_history(tmp_path / 'missing') == History()
    losses = [{'loss': 2.0, 'step': 10}, {'loss': 1.0, 'decode.loss_ce': 0.5, 'step': 20}]
    score = {'mIoU': 50.0, 'step': 0}  # an epoch, as mmdet's default hook logs it
    log_start('20260101_000000', [*losses, score], rest='{"loss": 0.')  # half a line
    history = read_history(tmp_path)
    assert history.iteration == 20
    assert history.losses == {10: losses[0], 20: losses[1]}
    assert history.metrics == {20: score}


def test_resumed_start_replaces_what_was_lost(tmp_path, log_start):
    log_start(
        '20260101_000000',
        [
            {'loss': 9.0, 'step': 10},
            {'mIoU': 10.0, 'step': 10},
            {'loss': 8.0, 'step': 20},
            {'mIoU': 20.0, 'step': 20},
            {'loss': 7.0, 'step': 30},
            {'mIoU': 30.0, 'step': 30},
        ],
    )
    log_start('20260101_000100', [{'loss': 1.0, 'step': 20}])
    history = read_history(tmp_path)
    assert {step: losses['loss'] for step, losses in history.losses.items()} == {10: 9.0, 20: 1.0}
    assert list(history.metrics) == [10]


def test_progress_says_what_is_known():
    history = History()
    assert say_progress(SEGMENTER, history, 100) == 'starting'
    history.losses[20] = {'loss': 1.5, 'time': 0.5}
    assert say_progress(SEGMENTER, history, 100) == 'iteration 20 of 100, loss 1.50, 40 s left'
    history.losses[20]['time'] = 2.25
    history.metrics[20] = {'mIoU': 12.3}
    assert say_progress(SEGMENTER, history, 100) == (
        'iteration 20 of 100, loss 1.50, mIoU 0.12, 3 min left'
    )


@pytest.mark.parametrize(
    ('lines', 'expected'),
    [
        ('', ''),
        ('Iter(train) [ 10/400]  lr: 0.1\n', ''),
        ('Iter(train) [100/400]\nIter(val) [ 50/200]    eta: 0:01\n', 'evaluating 50 of 200'),
        ('Epoch(val) [3][ 50/200]\n', 'evaluating 50 of 200'),
        ('Iter(test) [ 7/200]\n', 'evaluating 7 of 200'),
        ('Iter(val) [200/200]    mIoU: 1\n', ''),
        ('Iter(val) [ 50/200]\nIter(train) [110/400]\n', ''),
    ],
)
def test_evaluation_progress(tmp_path, lines, expected):
    (tmp_path / 'train.log').write_text(lines)
    assert say_evaluation(tmp_path / 'train.log') == expected
