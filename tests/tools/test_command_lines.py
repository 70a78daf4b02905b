"""The tools as they are typed. What they do is tested with the engine, in tests/engine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(home, workplace):
    """Run a tool in the workplace; return the finished process."""

    def run_tool(name: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        starter = [sys.executable] if name.endswith('.py') else ['bash']
        return subprocess.run(
            [*starter, str(home / 'tools' / name), *map(str, args)],
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
            timeout=600,
        )

    return run_tool


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope='session')
def checkpoint(workplace: Path) -> Path:
    return workplace / 'work_dirs' / 'quick' / 'iter_1.pth'


def test_train_test_and_predict(run, workplace, checkpoint):
    """Two processes train on the CPU, into the usual folder; then the result is used."""
    done = run('dist_train.sh', 'quick.py', 2, '--cfg-options', 'randomness.seed=1',
               PORT=free_port())  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'GPU number: 2' in done.stdout
    assert checkpoint.is_file()

    done = run('test.py', 'quick.py', checkpoint, '--out', 'maps', '--work-dir', 'tested')
    assert done.returncode == 0, done.stderr
    assert re.search(r'mIoU: \d', done.stdout)
    assert len(list((workplace / 'maps').iterdir())) == 2

    images = workplace / 'data' / 'shapes' / 'images' / 'validation'
    (images / 'broken.jpg').touch()
    done = run('predict.py', 'quick.py', checkpoint, images, '--out', 'drawn', '--score-thr', 0.5)
    assert done.returncode == 1, done.stderr
    assert '2 drawings in drawn' in done.stdout
    assert re.search(r'Could not be read: .*broken\.jpg', done.stderr)
    assert len(list((workplace / 'drawn').iterdir())) == 2


def test_user_errors_are_short(run, workplace):
    done = run('train.py', 'quick.py', '--cfg-options', 'train_dataloader.dataset.data_root=none')
    assert done.returncode == 2
    assert f'Looked for: {workplace}/none' in done.stderr
    assert 'Traceback' not in done.stderr


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


def test_a_backbone_is_swapped_by_command(run, workplace):
    name = 'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco'
    options = ('--arch', 'tiny', '--out', 'swapped/mine.py')
    done = run('swap_backbone.py', name, *options)
    assert done.returncode == 0, done.stderr
    written = workplace / 'swapped' / 'mine.py'
    assert f'Written: {written}' in done.stdout
    assert written.read_text() in done.stdout
    again = run('swap_backbone.py', name, *options)
    assert again.returncode == 2
    assert 'give --force' in again.stderr
    assert 'Traceback' not in again.stderr


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('mmdet/mask-rcnn_r50_fpn_1x_coc',), 'Did you mean mmdet/mask_rcnn/mask-rcnn_r50'),
        (('quick.py',), 'quick cannot take Hiera: it has Hiera already'),
        (('quick.py', '--arch', 'tinny'), "'tiny'"),
        (('quick.py', '--weights', 'no.pth'), 'no.pth'),
        (('--survey', 'nowhere'), 'There is no folder'),
        ((), 'a config is needed, or --survey'),
    ],
)
def test_what_cannot_be_swapped_is_one_paragraph(run, args, message):
    done = run('swap_backbone.py', *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


def test_costs_are_measured_by_command(run, workplace):
    done = run('cost.py', 'quick.py', '--size', 64, '--size', 64, 96, '--repeats', 1, '--csv', 'c')
    assert done.returncode == 0, done.stderr
    assert re.search(r'quick, 64x64\n(.+\n)*\npart .*\n-+\nbackbone.stem ', done.stdout)
    assert 'quick, 64x96' in done.stdout
    assert 'quick at 64x96: 2 predictions' in done.stderr
    assert len((workplace / 'c').read_text().splitlines()) == 1 + 2 * 8
    rows = run('cost.py', 'quick.py', '--no-time', '--no-activations', '--markdown',
               '--cfg-options', 'model.auxiliary_head=None')  # fmt: skip
    assert re.search(r'\| quick \| 160x192 \| [\d.]+ \|', rows.stdout)


def test_costs_that_cannot_be_measured_are_one_paragraph(run):
    done = run('cost.py', 'quick.py', '--size', 16)
    assert done.returncode == 2
    assert 'at least 32 pixels' in done.stderr
    assert 'Traceback' not in done.stderr


def test_detectors_are_timed_by_command(run, workplace):
    options = ('--rounds', 1, '--warmups', 0, '--threads', 1, '--work-dir', 'timed')
    done = run('benchmark_detector.py', 'quick.py', '--size', 64, 96, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r'\| quick +\| 64x96 +\| +[\d.]+ \|', done.stdout)
    assert 'round 1 of 1: quick' in done.stderr
    files = ('detectors.md', 'detectors.csv', 'detectors.png')
    assert all((workplace / 'timed' / name).stat().st_size for name in files)
    trained = run('benchmark_detector.py', 'quick.py', '--train', *options)
    assert re.search(r'\| forward \| backward \| optimizer \| rest', trained.stdout)


def test_operators_are_timed_by_command(run, workplace):
    options = ('--quick', '--rounds', 1, '--threads', 1, '--only', 'nms', '--work-dir', 'ops')
    done = run('benchmark_operators.py', *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r'\| nms +\| 40 boxes +\| +[\d.]+ \|', done.stdout)
    assert 'nms: 90 boxes' in done.stderr
    assert all((workplace / 'ops' / f'operators.{kind}').stat().st_size for kind in ('md', 'csv'))


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('benchmark_detector.py', 'quick.py', '--size', 16, 64), 'at least 32 pixels'),
        (('benchmark_operators.py', '--only', 'nmss'), 'Did you mean nms'),
    ],
)
def test_what_cannot_be_timed_is_one_paragraph(run, args, message):
    done = run(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
