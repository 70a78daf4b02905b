from __future__ import annotations

import pytest
from mmengine.config import Config

from demo.history import History
from demo.steps import DemoError
from demo.tasks import DETECTOR, SEGMENTER
from demo.training import Progress, Training


@pytest.fixture
def make_training(home, tools, tmp_path):
    """Return a function that stands for another run of the demo."""

    def make(options: list[str] = (), **changes) -> Training:
        config = Config.fromfile(home / DETECTOR.config)
        config.merge_from_dict(changes)
        work_dir = tmp_path / 'demo'
        work_dir.mkdir(exist_ok=True)
        return Training(DETECTOR, config, options, home, work_dir, tools)

    return make


def test_trained_and_tested_once(make_training, tools, tmp_path):
    training = make_training(options=['a.b=1'])
    assert not training.trained
    training.train()
    assert training.trained
    assert not training.tested
    training.test()
    assert training.tested
    folder = tmp_path / 'demo' / 'detector'
    assert tools.commands == [
        ['train.py', '--work-dir', str(folder), '--resume', '--cfg-options', 'a.b=1'],
        [
            'test.py',
            str(folder / 'iter_4.pth'),
            '--work-dir',
            str(folder / 'test'),
            '--out',
            str(folder / 'predictions.pkl'),
            '--cfg-options',
            'a.b=1',
        ],
    ]
    again = make_training(options=['a.b=1'])
    assert again.tested
    assert not again.outdated
    assert again.record == training.record
    assert again.record.metrics['coco/bbox_mAP'] == 0.6
    assert again.record.seconds > 0


def test_interrupted_training_goes_on_and_its_time_adds_up(make_training, tools):
    tools.stop_at = 3
    training = make_training()
    with pytest.raises(KeyboardInterrupt):
        training.train()
    again = make_training()
    assert not again.trained
    assert not again.outdated
    assert again.record.seconds > 0
    again.record.seconds = 100.0
    again.train()
    assert again.trained
    assert 100 < make_training().record.seconds < 200


def test_checkpoint_that_was_not_written_to_its_end_does_not_count(make_training, tools):
    tools.stop_at = 3
    training = make_training()
    with pytest.raises(KeyboardInterrupt):
        training.train()
    training.checkpoint.write_bytes(b'half')
    assert not make_training().trained


def test_lost_predictions_are_made_again(make_training):
    training = make_training()
    training.train()
    training.test()
    training.predictions.unlink()
    again = make_training()
    assert again.trained
    assert not again.tested
    again.test()
    assert again.tested


def test_another_config_makes_the_training_outdated(make_training):
    training = make_training()
    training.train()
    changed = make_training(**{'train_cfg.max_iters': 6})
    assert changed.outdated
    changed.forget()
    assert not changed.outdated
    assert not changed.trained
    assert not changed.work_dir.exists()


def test_folder_of_another_maker_is_refused(make_training, tmp_path):
    folder = tmp_path / 'demo' / 'detector'
    folder.mkdir(parents=True)
    with pytest.raises(DemoError, match='was not made by the demo'):
        make_training()
    assert folder.exists()


@pytest.mark.parametrize('text', ['{"config": ', '{"other": 1}'])
def test_damaged_record_is_named(make_training, tmp_path, text):
    training = make_training()
    training.train()
    record = tmp_path / 'demo' / 'detector.json'
    record.write_text(text)
    with pytest.raises(DemoError, match=r'detector\.json'):
        make_training()


def test_progress_of_a_fresh_training():
    say = Progress(SEGMENTER, 100, iteration=0)
    history = History()
    assert say(history, 5.0) == 'starting at iteration 0 of 100'
    history.losses[10] = {'loss': 2.0}
    assert say(history, 10.0) == 'iteration 10 of 100, loss 2.00'
    history.losses[20] = {'loss': 1.5}
    assert say(history, 15.0) == 'iteration 20 of 100, loss 1.50, 40 s left'
    history.metrics[20] = {'mIoU': 12.3}
    assert say(history, 35.0) == 'iteration 20 of 100, loss 1.50, mIoU 0.12, 3 min left'


def test_progress_of_a_resumed_training_counts_from_its_start():
    say = Progress(SEGMENTER, 100, iteration=58)
    history = History(losses={58: {'loss': 2.0}})
    assert say(history, 0.0) == 'starting at iteration 58 of 100'
    history = History(losses={52: {'loss': 2.0}})  # it went on from iteration 50
    assert say(history, 9.0) == 'iteration 52 of 100, loss 2.00'
    history.losses[62] = {'loss': 2.0}
    assert say(history, 19.0) == 'iteration 62 of 100, loss 2.00, 38 s left'
