"""The tools as they are typed. What they do is tested with the engine, in tests/engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiera_mm.backbone import Hiera


@pytest.fixture
def run(home, workplace):
    """Run a tool in the workplace; return the finished process."""

    def run_tool(name: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ['bash', str(home / 'tools' / name), *map(str, args)],
            cwd=workplace,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join([str(home), os.environ.get('PYTHONPATH', '')]),
                'PYTHON': sys.executable,
                'OMP_NUM_THREADS': '1',
                'CUDA_VISIBLE_DEVICES': '',
                **env,
            },
            capture_output=True,
            text=True,
        )

    return run_tool


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize('processes', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_train_test_and_predict(run, run_here, workplace, tmp_path, monkeypatch, processes):
    """Trained in processes on the CPU, into the usual folder; then the result is used."""
    done = run('dist_train.sh', 'quick.py', processes, '--cfg-options', 'randomness.seed=1',
               PORT=free_port())  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f'GPU number: {processes}' in done.stdout
    checkpoint = workplace / 'work_dirs' / 'quick' / 'iter_1.pth'
    assert checkpoint.is_file()

    monkeypatch.chdir(workplace)
    done = run_here('test.py', 'quick.py', checkpoint, '--out', 'maps', '--work-dir', 'tested',
                    '--cfg-options', 'visualizer.name=of_the_test')  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r'mIoU: \d', done.stdout)
    assert len(list((workplace / 'maps').iterdir())) == 2

    images = tmp_path / 'images'  # what the others test on stays whole
    shutil.copytree(workplace / 'data' / 'shapes' / 'images' / 'validation', images)
    (images / 'broken.jpg').touch()
    done = run_here('predict.py', 'quick.py', checkpoint, images, '--out', 'drawn',
                    '--score-thr', 0.5)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert '2 drawings in drawn' in done.stdout
    assert re.search(r'Could not be drawn: .*broken\.jpg: this is no image', done.stderr)
    assert len(list((workplace / 'drawn').iterdir())) == 2


def test_visualize_features(run_here, workplace, tmp_path, small_arch):
    checkpoint = tmp_path / 'x.pth'
    torch.save(Hiera(small_arch).state_dict(), checkpoint)
    images = workplace / 'data' / 'shapes' / 'images' / 'training'
    done = run_here('visualize_features.py', checkpoint, images, '--out', tmp_path / 'figures',
                    '--arch', json.dumps(small_arch), '--beside', 'random', '--size', 64,
                    '--point', 0.2, 0.7)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '4 figures in' in done.stdout
    assert len(list((tmp_path / 'figures').iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize('how', [(), ('--fsdp',)], ids=['ddp', 'fsdp'])
def test_pretraining_in_two_processes(run, workplace, tmp_path, how):
    """Each sees its part of the images; what both found is told at the end."""
    home = Path(__file__).parents[2]
    images = tmp_path / 'images'
    shutil.copytree(workplace / 'data' / 'shapes' / 'images' / 'training', images)
    (images / 'broken.jpg').touch()
    config = home / 'configs' / 'pretrain' / 'mae_hiera-t_1xb128-100e_images.py'
    (workplace / 'mae.py').write_text(
        f"""_base_ = {str(config)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))),
    init_cfg=None, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
train_dataloader = dict(
    batch_size=1, num_workers=1, dataset=dict(data_root={str(images)!r}))
train_cfg = dict(max_epochs=2)
"""
    )
    done = run('dist_train.sh', 'mae.py', 2, *how, PORT=free_port())
    assert done.returncode == 0, done.stderr
    assert 'Images unusable, and left out: 1' in done.stdout + done.stderr
    assert 'Grad strides do not match' not in done.stderr
    assert (workplace / 'work_dirs' / 'mae' / 'epoch_2.pth').is_file()


def test_user_errors_are_short(run_here, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    option = 'train_dataloader.dataset.data_root=none'
    done = run_here('train.py', 'quick.py', '--cfg-options', option)
    assert done.returncode == 2
    assert f'Looked for: {workplace}/none' in done.stderr
    assert 'Traceback' not in done.stderr


HOME = Path(__file__).parents[2]
SCRIPTS = [
    str(path.relative_to(HOME))
    for folder in ('tools', 'benchmarks', 'demo')
    for path in sorted((HOME / folder).glob('*.py'))
    if '__main__' in path.read_text(encoding='utf-8')
]


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_needs_no_packages_nor_a_certain_folder(script, tmp_path):
    """So that it takes no longer than Python itself: what is not there is not imported."""
    command = [sys.executable, '-S', HOME / script, '--help']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: {Path(script).name} ')


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts_show_their_usage(run, name):
    done = run(name)
    assert done.returncode == 2
    assert f'{name} ' in done.stderr


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a program on the PATH that only prints its arguments, one a line."""

    def make(name: str) -> Path:
        program = tmp_path / name
        program.write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; done\n')
        program.chmod(0o755)
        monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
        return program

    return make


def test_dist_test(run, fake, home):
    done = run('dist_test.sh', 'c.py', 'x.pth', 4, '--out', 'a b', PYTHON=str(fake('python-fake')),
               NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='5')  # fmt: skip
    assert done.stdout.split('\n') == [
        '-m', 'torch.distributed.run', '--nnodes=2', '--node_rank=1', '--nproc_per_node=4',
        '--master_addr=10.0.0.1', '--master_port=5', f'{home}/tools/test.py', 'c.py', 'x.pth',
        '--launcher', 'pytorch', '--out', 'a b', '',
    ]  # fmt: skip


def test_slurm_train(run, fake, home):
    fake('srun')
    done = run('slurm_train.sh', 'gpus', 'name', 'c.py', 'w', '--amp', PYTHON='py', GPUS='16',
               CPUS_PER_TASK='3', SRUN_ARGS='--quiet --time=5')  # fmt: skip
    assert done.stdout.split('\n') == [
        '--partition=gpus', '--job-name=name', '--gres=gpu:8', '--ntasks=16',
        '--ntasks-per-node=8', '--cpus-per-task=3', '--kill-on-bad-exit=1', '--quiet', '--time=5',
        'py', '-u', f'{home}/tools/train.py', 'c.py', '--work-dir=w', '--launcher=slurm', '--amp',
        '',
    ]  # fmt: skip
