"""What each position embedding is worth at sizes it was not trained at.

A small Hiera learns the task of :mod:`~benchmarks.studies.boxes` from scenes of one size. The same
weights are then scored on larger scenes, with objects of the same size, under each position
embedding and each layout of windows; once as they are, and once after a short training at the
larger size.
"""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.kit.ledger import Ledger
from benchmarks.studies.boxes import MEAN, STD, Boxes, BoxNetwork, draw_boxes, score, train
from hiera_mm.errors import UserError
from hiera_mm.network import Variant
from hiera_mm.network.layout import MASK_UNIT
from hiera_mm.network.position import (
    Absolute,
    AbsoluteWin,
    AbsoluteWinRecursive,
    PositionEmbedding,
    WindowAligned,
)
from hiera_mm.network.trunk import PATCH_STRIDE
from hiera_mm.pretrain import HieraMAE
from hiera_mm.weights.loading import adapt_position

SIDE = 128  # pixels of a training scene
LAST_STEPS = 100
BATCH = 8  # scenes of a step; fewer of larger ones
TRAIN_RATE, TUNE_RATE = 2e-3, 5e-4  # the highest learning rates
PRETRAIN_RATE, PRETRAIN_BATCH = 1e-3, 16
MAE_DECODER = (64, 2, 4)  # channels, blocks, heads
GRID = (SIDE // PATCH_STRIDE,) * 2
WINDOWS = (MASK_UNIT, MASK_UNIT // 2, SIDE // 16, SIDE // 32)
LAYOUTS: dict[str, Variant] = {
    'global': Variant(embed_dim=32, num_heads=1, depths=(1, 1, 4, 1)),
    'windows': Variant(
        embed_dim=32, num_heads=1, depths=(1, 1, 4, 1), window_sizes=WINDOWS, global_blocks=(5,)
    ),
}
"""The release's layout, and SAM 2's with windows as large as a training scene and one global block.
On a training scene both compute the same, so both can be given the same weights."""


class Arm(NamedTuple):
    """One way of using trained weights on a larger image: keys of `TRAINED`, `FORMS`, `LAYOUTS`."""

    trained: str
    form: str
    layout: str


TRAINED: dict[str, PositionEmbedding] = {
    'absolute': Absolute(GRID),
    'absolute_win': AbsoluteWin((8, 8)),
}
FORMS: dict[tuple[str, str], PositionEmbedding] = {
    ('absolute', 'absolute'): TRAINED['absolute'],
    ('absolute', 'window_aligned'): WindowAligned(GRID),
    ('absolute', 'absolute_win_recursive'): AbsoluteWinRecursive(GRID, period=GRID),
    ('absolute_win', 'absolute'): TRAINED['absolute'],
    ('absolute_win', 'window_aligned'): WindowAligned(GRID),
    ('absolute_win', 'absolute_win'): TRAINED['absolute_win'],
    ('absolute_win', 'absolute_win_recursive'): AbsoluteWinRecursive((8, 8), period=GRID),
}
"""What the parameters of a training can be turned into without a change at the training size. The
parts of absolute win, added up, are an absolute map with a pronounced window part, such as long
pretraining gives the release (arXiv 2311.05613, section 3), and minutes do not."""

ARMS = tuple(Arm(*pair, layout) for layout in LAYOUTS for pair in FORMS)


class Training(NamedTuple):
    """One training: its position embedding, and the seed of weights and of the order of scenes."""

    trained: str
    seed: int

    @property
    def name(self) -> str:
        """A name by which it is kept."""
        return f'training with {self.trained}, seed {self.seed}'

    def file(self, work_dir: Path) -> Path:
        """Return where its weights are kept."""
        return work_dir / 'weights' / f'{self.trained}-{self.seed}.pth'


class Job(NamedTuple):
    """One score.

    Attributes:
        arm: What is scored.
        seed: Which of the trainings.
        scale: Side of the scenes, as a multiple of the training side.
        tuned: Whether a short training at that side comes first.
    """

    arm: Arm
    seed: int
    scale: float
    tuned: bool

    @property
    def name(self) -> str:
        """A name by which its result is kept."""
        tuned = 'tuned' if self.tuned else 'as trained'
        arm = f'{self.arm.trained} as {self.arm.form}, {self.arm.layout}'
        return f'{arm}, {self.scale:g}x, {tuned}, seed {self.seed}'


def check(setting: Namespace) -> None:
    """Refuse scales at which a side is no whole number of points.

    Args:
        setting: The options of ``benchmarks/resolution.py``: `seeds`, `scales`, `train_scenes`,
            `test_scenes`, `train_steps`, `tune_steps` and `pretrain_steps`.
    """
    for scale in setting.scales:
        if scale < 1 or SIDE * scale % PATCH_STRIDE:
            raise UserError(f'scales are multiples of 1/32, from 1 on; got {scale}')


def fewer(count: int, scale: float, least: int = 1) -> int:
    """Return how many scenes at a scale have as many pixels as `count` at the training size."""
    return max(1, least, round(count / scale**2))


def jobs(setting: Namespace) -> list[Job]:
    """Return all scores that the study consists of."""
    return [
        Job(arm, seed, scale, tuned)
        for seed in range(setting.seeds)
        for tuned in (False, True)
        for scale in setting.scales
        for arm in ARMS
        if scale > 1 or not tuned
    ]


def run_study(
    setting: Namespace,
    work_dir: Path,
    ledger: Ledger,
    workers: int,
    report: Callable[[str], None],
) -> dict[Job, float]:
    """Train, score, train a little more, score again; go on where an earlier run stopped.

    Args:
        setting: The size of the study, checked.
        work_dir: Where trained weights are kept.
        ledger: Keeps the scores, 0 to 100.
        workers: Processes at work at the same time, one thread each.
        report: Called with a line about what is done.
    """
    trainings = [Training(trained, seed) for seed in range(setting.seeds) for trained in TRAINED]
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        try:
            missing = {
                pool.submit(train_once, one, setting, work_dir): one
                for one in trainings
                if not (one.name in ledger.results and one.file(work_dir).exists())
            }
            for done in as_completed(missing):
                ledger.add(missing[done].name, done.result())
                report(f'{missing[done].name}: loss {done.result():.2f}')
            wanted = jobs(setting)
            missing = {
                pool.submit(score_once, job, setting, work_dir): job
                for job in wanted
                if job.name not in ledger.results
            }
            for number, done in enumerate(as_completed(missing), 1 + len(wanted) - len(missing)):
                ledger.add(missing[done].name, done.result())
                text = f'{missing[done].name}: {done.result():.1f}'
                report(f'({number}/{len(wanted)}) {text}')
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {job: ledger.results[job.name] for job in wanted}


def train_once(training: Training, setting: Namespace, work_dir: Path) -> float:
    """Train one network and keep its weights; return its loss over the last steps."""
    torch.manual_seed(training.seed)
    network = BoxNetwork(LAYOUTS['global'], TRAINED[training.trained])
    scenes = _scenes(setting.train_scenes, SIDE, seed=0)
    if setting.pretrain_steps:
        pretrain(network, scenes, setting.pretrain_steps, training.seed)
    losses = train(
        network,
        scenes,
        steps=setting.train_steps,
        rate=TRAIN_RATE,
        batch=BATCH,
        seed=training.seed,
    )
    file = training.file(work_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix('.new')
    torch.save(network.state_dict(), new)
    new.replace(file)
    return fmean(losses[-LAST_STEPS:])


def pretrain(network: BoxNetwork, scenes: Boxes, steps: int, seed: int) -> None:
    """Pretrain the backbone of a network as a masked autoencoder."""
    variant = replace(network.backbone.variant, pos_embed=network.backbone.position)
    model = HieraMAE(dict(type='Hiera', arch=variant), *MAE_DECODER)
    optimizer = torch.optim.AdamW(model.parameters(), PRETRAIN_RATE, (0.9, 0.95), weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PRETRAIN_RATE, steps, pct_start=max(0.1, 2 / steps), cycle_momentum=False
    )
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images = scenes.images[torch.randint(len(scenes), (PRETRAIN_BATCH,), generator=random)]
        loss = model.forward_mae((images.float() - MEAN) / STD).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    network.backbone.load_state_dict(model.backbone.state_dict(), strict=False)


def score_once(job: Job, setting: Namespace, work_dir: Path) -> float:
    """Return the score of one job."""
    file = Training(job.arm.trained, job.seed).file(work_dir)
    network = network_of(job.arm, torch.load(file, weights_only=True))
    side, batch = int(SIDE * job.scale), fewer(BATCH, job.scale)
    if job.tuned:
        scenes = fewer(setting.train_scenes // 4, job.scale, least=setting.train_scenes // 10)
        train(
            network,
            _scenes(scenes, side, seed=0),
            steps=setting.tune_steps,
            rate=TUNE_RATE,
            batch=batch,
            seed=job.seed,
        )
    scenes = fewer(setting.test_scenes, job.scale, least=setting.test_scenes // 5)
    return score(network, _scenes(scenes, side, seed=1), batch)


def network_of(arm: Arm, state: Mapping[str, Tensor]) -> BoxNetwork:
    """Return the network of an arm, with trained weights, their position embedding in its form."""
    theirs, ours = TRAINED[arm.trained], FORMS[arm.trained, arm.form]
    names = theirs.shapes(1)
    adapted, _ = adapt_position({name: state[f'backbone.{name}'] for name in names}, theirs, ours)
    rest = {
        name: value for name, value in state.items() if name.removeprefix('backbone.') not in names
    }
    network = BoxNetwork(LAYOUTS[arm.layout], ours)
    network.load_state_dict(rest | {f'backbone.{name}': value for name, value in adapted.items()})
    return network


@lru_cache(maxsize=4)
def _scenes(count: int, side: int, seed: int) -> Boxes:
    return draw_boxes(count, side, seed)
