from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from demo import driver
from demo.shapes import make_shapes

ROOT = Path(__file__).parents[2]
PICTURES = {
    f'{model}-{kind}.png'
    for model in ('detector', 'segmenter')
    for kind in ('curves', 'predictions')
}
DRAWING = ('draw_curves', 'draw_detections', 'draw_segmentations')


@pytest.fixture
def demo(tools, console, tmp_path, monkeypatch):
    """Return a function that runs the demo with stand-ins for the tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, 'make_shapes', partial(make_shapes, num_train=1, num_val=1))

    def run(*options: str, draw: bool = False, fresh: bool = False) -> tuple[bool, str]:
        with monkeypatch.context() as patch:
            for name in () if draw else DRAWING:
                patch.setattr(driver, name, lambda *args: None)
            console.file.truncate(0)
            options = ('train_cfg.max_iters=4', *options)
            met = driver.run_demo(tmp_path / 'demo', console, fresh=fresh, options=options)
        return met, console.file.getvalue()

    return run


def test_everything_is_made_once(demo, tools, tmp_path):
    met, said = demo(draw=True)
    assert not met
    assert 'Below the bar: mIoU.' in said
    assert said.count('the whole demo takes about 1 min') == 1
    assert [command[0] for command in tools.commands] == ['train.py', 'test.py'] * 2
    learnt = tmp_path / 'demo' / 'segmenter' / 'iter_4.pth'
    assert learnt.is_file()
    start = f'model.backbone.init_cfg.checkpoint={learnt}'
    assert [start in command for command in tools.commands] == [False, False, True, True]
    assert {file.name for file in (tmp_path / 'demo').glob('*.png')} == PICTURES
    for step in range(1, 7):
        assert f'({step}/6)' in said
    rows = [line.split() for line in said.splitlines()]
    assert ['Mask', 'R-CNN', 'box', 'AP', '0.600', '0.50', '✓', '4', '0.0', 'cpu'] in rows
    assert ['mask', 'AP', '0.500', '0.45', '✓'] in rows
    assert ['UPerNet', 'mIoU', '0.700', '0.75', '✗', '4', '0.0', 'cpu'] in rows

    _, again = demo()
    assert len(tools.commands) == 4
    assert again.count('done before') == 4
    assert '0.600' in again

    demo(fresh=True)
    assert [command[0] for command in tools.commands[4:]] == ['train.py', 'test.py'] * 2

    demo('model.backbone.drop_path_rate=0.1')
    assert [command[0] for command in tools.commands[8:]] == ['train.py', 'test.py'] * 2


def test_a_new_segmenter_makes_the_detector_anew(demo, tools, tmp_path):
    demo()
    record = tmp_path / 'demo' / 'segmenter.json'
    kept = json.loads(record.read_text())
    record.write_text(json.dumps({**kept, 'config': 'another'}))
    demo()
    assert [command[0] for command in tools.commands[4:]] == ['train.py', 'test.py'] * 2


def test_interrupted_demo_goes_on(demo, tools):
    tools.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        demo()
    demo()
    trained = [c for c in tools.commands if c[0] == 'train.py']
    assert len(trained) == 3
    assert all('--resume' in command for command in trained)


def test_data_that_cannot_be_made_is_reported(demo, tmp_path):
    foreign = tmp_path / 'data' / 'shapes'
    foreign.mkdir(parents=True)
    (foreign / 'mine.txt').touch()
    with pytest.raises(driver.DemoError, match='data set could not be made'):
        demo()
    assert (foreign / 'mine.txt').exists()


@pytest.mark.parametrize(('came_to', 'status'), [(True, 0), (False, 1), (KeyboardInterrupt, 130)])
def test_the_script_hands_its_options_on(monkeypatch, tmp_path, came_to, status):
    def run_demo(work_dir, console, *, fresh, options):
        assert (work_dir, fresh, options) == (tmp_path, True, ['a.b=1', 'c=2'])
        if came_to is KeyboardInterrupt:
            raise KeyboardInterrupt
        return came_to

    monkeypatch.setattr(driver, 'run_demo', run_demo)
    monkeypatch.setattr(sys, 'path', ['', *sys.path])  # the script replaces the first
    monkeypatch.setattr(signal, 'signal', lambda *_: None)  # not for this process
    typed = ['run.py', '--work-dir', str(tmp_path), '--fresh', '--cfg-options', 'a.b=1', 'c=2']
    monkeypatch.setattr(sys, 'argv', typed)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'demo' / 'run.py'), run_name='__main__')
    assert ended.value.code == status


@pytest.mark.slow
def test_real_tools_from_start_to_pictures(tmp_path):
    options = [
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
        'val_dataloader.dataset.indices=8',
        'test_dataloader.dataset.indices=8',
    ]
    command = [sys.executable, ROOT / 'demo' / 'run.py', '--cfg-options', *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'Below the bar: mIoU, box AP, mask AP.' in done.stdout
    assert {file.name for file in (tmp_path / 'work_dirs' / 'demo').glob('*.png')} == PICTURES
