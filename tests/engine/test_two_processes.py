"""Several processes: the same training as one, shards, and what happens when one dies."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from hiera_mm.engine import test as evaluate
from hiera_mm.engine import train
from hiera_mm.weights.reading import read_checkpoint

from .conftest import forget_other_runs

ITERS = 5
ROOT = Path(__file__).parents[2]
JOBS = Path(__file__).with_name('jobs.py')
runpy.run_path(str(JOBS))  # registers its hooks here as well

SAME_DATA = f"""

custom_imports = dict(imports=['hiera_mm'], allow_failed_imports=False)
train_cfg = dict(max_iters={ITERS}, val_interval=100)
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1), logger=dict(interval=1)
)
param_scheduler = None
optim_wrapper = dict(
    # Of what has no gradient but for rounding, as the bias of keys, eps hides the difference.
    optimizer=dict(lr=1e-4, eps=1e-6),
    constructor='HieraOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.8),
    clip_grad=dict(max_norm=0.5),
)
batch_sampler = dict(type='BatchSampler', drop_last=False)
"""
"""Nothing at random, and four images of one size in a batch, by one process or by two."""

SEGMENTER = """
norm = dict(type='GN', num_groups=4)
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    decode_head=dict(norm_cfg=dict(_delete_=True, **norm), dropout_ratio=0.0),
    auxiliary_head=dict(norm_cfg=dict(_delete_=True, **norm), dropout_ratio=0.0),
)
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='Resize', scale=(96, 96)),
        dict(type='PackSegInputs'),
    ]),
)
"""

DETECTOR = """
model = dict(_delete_=True, **{model})
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=None,
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(96, 96), keep_ratio=False),
        dict(type='PackDetInputs'),
    ]),
)
"""


def small_atss():
    """A detector that divides its losses by means over all processes, as most of one stage do."""
    spec = importlib.util.find_spec('mmdet')
    configs = Path(spec.origin).parent / '.mim' / 'configs'
    model = Config.fromfile(configs / 'atss' / 'atss_r50_fpn_1x_coco.py').model.to_dict()
    arch = dict(embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))
    model['backbone'] = dict(type='Hiera', arch=arch, out_indices=(1, 2, 3))
    model['neck'].update(in_channels=[32, 64, 128], out_channels=32, start_level=0)
    model['bbox_head'].update(num_classes=6, in_channels=32, feat_channels=32, stacked_convs=1)
    return model


def run_two(jobs: list[dict], folder: Path) -> tuple[int, str]:
    """Run jobs in two processes; return the exit code and what was printed."""
    file = folder / 'jobs.json'
    file.write_text(json.dumps(jobs))
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
        str(JOBS), str(file),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope='module')
def jobs(segmenter, detector, tmp_path_factory):
    """By name, what one process and what two are to train, and where."""
    folder = tmp_path_factory.mktemp('jobs')
    found = {}
    for name, task, text in (('segmenter', segmenter, SEGMENTER), ('detector', detector, DETECTOR)):
        config = folder / f'{name}.py'
        text = text.format(model=small_atss()) if name == 'detector' else text
        config.write_text(f'_base_ = {str(task.config)!r}\n{SAME_DATA}{text}')
        kept = ('train_dataloader', 'model.backbone') if name == 'segmenter' else 'train_dataloader'
        options = {
            key: value
            for key, value in task.options.items()
            if key.startswith(kept) or (name == 'segmenter' and key.startswith('model.'))
        }
        found[name] = dict(config=str(config), cfg_options=options)
    return found


def job(jobs, name, folder, batch, **options):
    """One job: `batch` images for each process, and a note of its losses."""
    folder.mkdir(exist_ok=True)
    note = dict(type='NoteLosses', file=str(folder / 'losses.txt'))
    cfg_options = {
        **jobs[name]['cfg_options'],
        'train_dataloader.batch_size': batch,
        'custom_hooks': [note],
    }
    return {**jobs[name], 'cfg_options': cfg_options, 'work_dir': str(folder), **options}


def losses(folder):
    return torch.tensor([float(line) for line in (folder / 'losses.txt').read_text().split()])


def weights(folder, iteration=ITERS):
    return read_checkpoint(folder / f'iter_{iteration}.pth')['state_dict']


def differ(a, b):
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point())


def dying(jobs, folder, how):
    """A job in which the second process dies, and that would go on for long without it."""
    work = job(jobs, 'segmenter', folder, 2, launcher='pytorch')
    work['cfg_options']['custom_hooks'] = [dict(type='Die', how=how)]
    work['cfg_options']['train_cfg.max_iters'] = 10_000
    return work


def in_epochs(work):
    """The same job in epochs."""
    work['cfg_options'] |= {
        'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=3),
        'default_hooks.checkpoint.by_epoch': True,
    }
    return work


@pytest.fixture(scope='module')
def trained_by_two(jobs, tmp_path_factory):
    """The folder of what two processes trained: with DDP, and with FSDP, resumed once.

    One job goes on in epochs, of half the iterations, from what one process trained for an epoch.
    The last job ends with the death of a process; what was printed is in `printed.txt`.
    """
    root = tmp_path_factory.mktemp('two')
    shared = dict(launcher='pytorch')
    refused = job(jobs, 'detector', root / 'refused', 2, refusal=str(root / 'refused_'), **shared)
    refused['cfg_options']['train_dataloader.dataset.data_root'] = str(root / 'none')
    alone = in_epochs(job(jobs, 'segmenter', root / 'alone', 1))
    alone['cfg_options']['train_cfg']['max_epochs'] = 1
    forget_other_runs()
    train(**alone)
    more = in_epochs(job(jobs, 'segmenter', root / 'more', 1, **shared))
    work = [
        refused,
        {**more, 'resume': str(root / 'alone' / 'epoch_1.pth')},
        job(jobs, 'segmenter', root / 'ddp-segmenter', 2, **shared),
        job(jobs, 'detector', root / 'ddp-detector', 2, **shared),
        job(jobs, 'segmenter', root / 'fsdp-segmenter', 2, fsdp=True, **shared),
        job(
            jobs, 'segmenter', root / 'fsdp-resumed', 2, fsdp=True, **shared,
            resume=str(root / 'fsdp-segmenter' / 'iter_2.pth'),
        ),
        dying(jobs, root / 'dying', 'killed'),
    ]  # fmt: skip
    code, printed = run_two(work, root)
    assert (root / 'dying' / 'iter_1.pth').is_file(), printed[-4000:]
    assert code != 0
    (root / 'printed.txt').write_text(printed)
    return root


def test_all_processes_know_what_one_found(trained_by_two):
    found = [(trained_by_two / f'refused_{rank}').read_text() for rank in range(2)]
    assert 'Looked for' in found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize('name', ['segmenter', 'detector'])
def test_two_processes_train_as_one(jobs, trained_by_two, tmp_path, name):
    train(**job(jobs, name, tmp_path / 'one', 4))
    one, two = tmp_path / 'one', trained_by_two / f'ddp-{name}'
    assert len(losses(one)) == ITERS
    assert (losses(one) - losses(two)).abs().max() <= 1e-5
    assert differ(weights(one), weights(two)) <= 1e-5
    assert differ(weights(one), weights(one, 1)) > 1e-4  # something was learnt


def test_gradients_add_up_over_iterations(jobs, trained_by_two, tmp_path):
    work = job(jobs, 'segmenter', tmp_path / 'accumulated', 2)
    work['cfg_options'] |= {
        'optim_wrapper.accumulative_counts': 2,
        'train_cfg.max_iters': 2 * ITERS,
    }
    train(**work)
    accumulated = weights(tmp_path / 'accumulated', 2 * ITERS)
    assert differ(accumulated, weights(trained_by_two / 'ddp-segmenter')) <= 1e-5


def test_shards_train_as_copies(trained_by_two):
    ddp, fsdp = trained_by_two / 'ddp-segmenter', trained_by_two / 'fsdp-segmenter'
    assert (losses(ddp) - losses(fsdp)).abs().max() <= 1e-5
    assert differ(weights(ddp), weights(fsdp)) <= 1e-5


def test_a_training_in_shards_is_resumed(trained_by_two):
    whole, resumed = trained_by_two / 'fsdp-segmenter', trained_by_two / 'fsdp-resumed'
    assert len(losses(resumed)) == ITERS - 2
    assert torch.equal(losses(resumed), losses(whole)[2:])
    assert differ(weights(resumed), weights(whole)) == 0


def test_more_processes_train_the_remaining_epochs(trained_by_two):
    assert len(losses(trained_by_two / 'alone')) == 4
    assert len(losses(trained_by_two / 'more')) == 2 * 2
    first, last = trained_by_two / 'alone' / 'epoch_1.pth', trained_by_two / 'more' / 'epoch_3.pth'
    first, last = (read_checkpoint(file)['state_dict'] for file in (first, last))
    assert differ(first, last) > 1e-4
    printed = (trained_by_two / 'printed.txt').read_text()
    assert printed.count('the number of processes changed from 1 to 2') == 1


def test_one_process_tests_what_shards_trained(segmenter, trained_by_two, tmp_path):
    folder = trained_by_two / 'fsdp-segmenter'
    assert not any('_fsdp' in name for name in weights(folder))
    # The copy of the config that lies beside the checkpoint says how it was trained.
    assert 'HieraFSDPStrategy' in (folder / 'segmenter.py').read_text()
    data = {key: value for key, value in segmenter.options.items() if key.startswith('test_')}
    copies, shards = (
        evaluate(
            each / 'segmenter.py',
            str(each / f'iter_{ITERS}.pth'),
            work_dir=str(tmp_path / each.name),
            cfg_options=data,
        )
        for each in (trained_by_two / 'ddp-segmenter', folder)
    )
    assert shards == pytest.approx(copies, abs=0.1)  # a few pixels


def test_a_process_that_is_killed_ends_the_others(trained_by_two):
    assert 'SIGKILL' in (trained_by_two / 'printed.txt').read_text()


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(jobs, tmp_path):
    code, printed = run_two([dying(jobs, tmp_path, 'fails')], tmp_path)
    assert code != 0
    assert 'the disk of the second process is on fire' in printed
