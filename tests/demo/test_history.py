from __future__ import annotations

import json

import pytest

from demo.history import evaluation_progress, read_history


@pytest.fixture
def log_start(tmp_path):
    """Write the log of one start of a training: pairs of an iteration and its loss, or scores."""

    def write(start: str, records: list[dict], rest: str = '') -> None:
        file = tmp_path / start / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text(''.join(f'{json.dumps(record)}\n' for record in records) + rest)

    return write


def test_no_log_yet(tmp_path):
    history = read_history(tmp_path / 'missing')
    assert history.iteration == 0
    assert history.losses == {}


def test_losses_and_scores_by_iteration(tmp_path, log_start):
    log_start(
        '20260101_000000',
        [
            {'loss': 2.0, 'decode.loss_ce': 1.5, 'time': 0.1, 'step': 10},
            {'loss': 1.0, 'decode.loss_ce': 0.5, 'time': 0.1, 'step': 20},
            {'mIoU': 50.0, 'step': 0},  # an epoch, as mmdet's default hook logs it
        ],
    )
    history = read_history(tmp_path)
    assert history.iteration == 20
    assert history.losses == {
        10: {'loss': 2.0, 'decode.loss_ce': 1.5},
        20: {'loss': 1.0, 'decode.loss_ce': 0.5},
    }
    assert history.metrics[20]['mIoU'] == 50.0


def test_resumed_start_replaces_what_was_lost(tmp_path, log_start):
    log_start(
        '20260101_000000',
        [
            {'loss': 9.0, 'step': 10},
            {'mIoU': 10.0, 'step': 10},
            {'loss': 8.0, 'step': 20},
            {'loss': 7.0, 'step': 30},
            {'mIoU': 30.0, 'step': 30},
        ],
    )
    log_start('20260101_000100', [{'loss': 1.0, 'step': 20}])
    history = read_history(tmp_path)
    assert {step: losses['loss'] for step, losses in history.losses.items()} == {10: 9.0, 20: 1.0}
    assert list(history.metrics) == [10]


def test_line_that_is_being_written_is_left_for_later(tmp_path, log_start):
    log_start('20260101_000000', [{'loss': 1.0, 'step': 10}], rest='{"loss": 0.')
    assert read_history(tmp_path).iteration == 10


@pytest.mark.parametrize(
    ('lines', 'expected'),
    [
        ('', None),
        ('Iter(train) [ 10/400]  lr: 0.1\n', None),
        ('Iter(train) [100/400]\nIter(val) [ 50/200]    eta: 0:01\n', (50, 200)),
        ('Epoch(val) [3][ 50/200]\n', (50, 200)),
        ('Iter(test) [ 7/200]\n', (7, 200)),
        ('Iter(val) [200/200]    mIoU: 1\n', None),
        ('Iter(val) [ 50/200]\nIter(train) [110/400]\n', None),
    ],
)
def test_evaluation_progress(tmp_path, lines, expected):
    log = tmp_path / 'train.log'
    log.write_text(lines)
    assert evaluation_progress(log) == expected
