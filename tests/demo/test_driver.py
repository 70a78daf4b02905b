from __future__ import annotations

import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from demo import driver, run_demo
from demo.shapes import make_shapes

ROOT = Path(__file__).parents[2]
PICTURES = {
    f'{model}-{kind}.png'
    for model in ('detector', 'segmenter')
    for kind in ('curves', 'predictions')
}


@pytest.fixture
def demo(home, tools, tmp_path, monkeypatch):
    """Return a function that runs the demo with stand-ins for the tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, 'make_shapes', partial(make_shapes, num_train=1, num_val=1))
    monkeypatch.setattr(driver, 'run_command', lambda *args, console: tools(*args))

    def run(**options) -> tuple[bool, str]:
        console = Console(file=io.StringIO(), width=100)
        met = run_demo(home, tmp_path / 'demo', console, **options)
        return met, console.file.getvalue()

    return run


def test_everything_is_made_once(demo, tools, tmp_path):
    met, said = demo()
    assert not met
    assert 'Below the bar: mIoU.' in said
    assert [command[0] for command in tools.commands] == ['train.py', 'test.py'] * 2
    assert {file.name for file in (tmp_path / 'demo').glob('*.png')} == PICTURES
    for step in range(1, 7):
        assert f'({step}/6)' in said
    assert '0.600' in said
    assert '0.700' in said

    _, again = demo()
    assert len(tools.commands) == 4
    assert again.count('done before') == 4
    assert '0.600' in again


def test_interrupted_demo_goes_on(demo, tools):
    tools.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        demo()
    demo()
    trained = [c for c in tools.commands if c[0] == 'train.py']
    assert len(trained) == 3
    assert all('--resume' in command for command in trained)


def test_fresh_demo_trains_anew(demo, tools):
    demo()
    demo(fresh=True)
    assert [command[0] for command in tools.commands] == ['train.py', 'test.py'] * 4


def test_changed_options_train_anew(demo, tools):
    demo()
    demo(options=['model.size=3'])
    assert len(tools.commands) == 8
    assert tools.commands[-1][-2:] == ['--cfg-options', 'model.size=3']


def test_data_that_cannot_be_made_is_reported(demo, tmp_path):
    foreign = tmp_path / 'data' / 'shapes'
    foreign.mkdir(parents=True)
    (foreign / 'mine.txt').touch()
    with pytest.raises(driver.DemoError, match='data set could not be made'):
        demo()
    assert (foreign / 'mine.txt').exists()


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
    command = [sys.executable, ROOT / 'tools' / 'demo.py', '--cfg-options', *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'Below the bar: box AP, mask AP, mIoU.' in done.stdout
    assert {file.name for file in (tmp_path / 'work_dirs' / 'demo').glob('*.png')} == PICTURES
