"""What pretraining without labels is worth when few images have labels.

One small Hiera is pretrained on all images of a data set. Detectors and segmenters are then trained
with the labels of a few of them: with its weights in their backbone, and with drawn ones. All else
is equal: images, iterations, learning rates and, for each seed, what is drawn at random.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from mmengine.config import Config

from benchmarks.kit.ledger import Ledger
from benchmarks.kit.memory import in_new_process
from demo.shapes import make_shapes
from demo.training import ROOT, read_history
from hiera_mm.cost.report import table
from hiera_mm.engine import train
from hiera_mm.errors import UserError
from hiera_mm.pretrain import pretrain

STARTS = ('scratch', 'MAE')
CONFIGS = ROOT / 'configs'
# The demo's with the blocks of Hiera-T. Where blocks are few, drawn weights learn as soon.
ARCH = {'embed_dim': 32, 'num_heads': 1, 'depths': (1, 2, 7, 2)}
IN_PROCESS = {'num_workers': 0, 'persistent_workers': False}


class Task(NamedTuple):
    """What is trained: its config, its score, the value of a perfect one, changes of the config."""

    config: Path
    score: str
    key: str
    full: float
    changes: Mapping[str, Any]


class Data(NamedTuple):
    """A data set: the tasks for it, its training images, and what it changes in their configs."""

    tasks: tuple[str, ...]
    images: str
    changes: Mapping[str, Any]


TASKS = {
    'detector': Task(
        CONFIGS / 'demo' / 'mask-rcnn_hiera-demo_fpn_shapes.py',
        'box AP',
        'coco/bbox_mAP',
        1.0,
        {  # boxes alone: not every data set has masks
            'model.type': 'FasterRCNN',
            'model.data_preprocessor.pad_mask': False,
            'model.roi_head.mask_roi_extractor': None,
            'model.roi_head.mask_head': None,
            'train_dataloader.dataset.pipeline.1.with_mask': False,
            'val_dataloader.dataset.pipeline.2.with_mask': False,
            'val_evaluator.metric': ['bbox'],
        },
    ),
    'segmenter': Task(CONFIGS / 'demo' / 'upernet_hiera-demo_shapes.py', 'mIoU', 'mIoU', 100.0, {}),
}
_CELLS = ('Platelets', 'RBC', 'WBC')
DATA = {
    'shapes': Data(('detector', 'segmenter'), 'images/training', {}),
    'bccd': Data(
        ('detector',),
        'train',
        {
            'model.roi_head.bbox_head.num_classes': len(_CELLS),
            'train_dataloader.dataset.metainfo.classes': _CELLS,
            'train_dataloader.dataset.ann_file': 'annotations/train.json',
            'train_dataloader.dataset.data_prefix.img': 'train/',
            'train_dataloader.dataset.pipeline.2.scale': (192, 144),
            'val_dataloader.dataset.metainfo.classes': _CELLS,
            'val_dataloader.dataset.ann_file': 'annotations/val.json',
            'val_dataloader.dataset.data_prefix.img': 'val/',
            'val_dataloader.dataset.pipeline.1.scale': (208, 156),
        },
    ),
}


class Job(NamedTuple):
    """One training with labels.

    Attributes:
        data: Key of `DATA`.
        task: Key of `TASKS`.
        rate: The backbone's learning rate, as a multiple of the config's.
        seed: Seed of the training.
        start: What the backbone starts from, of `STARTS`.
    """

    data: str
    task: str
    rate: float
    seed: int
    start: str

    @property
    def name(self) -> str:
        """A name by which its score is kept, and its folder."""
        return f'{self.data}-{self.task}-rate{self.rate:g}-seed{self.seed}-{self.start}'


def check(setting: Namespace) -> None:
    """Refuse data that the study does not know, or that is not there."""
    for name in setting.data:
        if name not in DATA:
            raise UserError(f'there is no data {name!r}, only {", ".join(DATA)}')
    if 'bccd' in setting.data and not (setting.bccd / 'annotations').is_dir():
        raise UserError(f'{setting.bccd.absolute()} has no annotations/: give the folder as --bccd')


def jobs(setting: Namespace) -> list[Job]:
    """Return all trainings with labels that the study consists of."""
    return [
        Job(data, task, rate, seed, start)
        for data in setting.data
        for rate in setting.rates
        for task in DATA[data].tasks
        for seed in setting.seeds
        for start in STARTS
    ]


def run_study(
    setting: Namespace, ledger: Ledger, report: Callable[[str], None]
) -> dict[Job, float]:
    """Pretrain, train, score; go on where an earlier run stopped.

    Args:
        setting: The options of ``benchmarks/mae.py``, checked.
        ledger: Keeps the scores, 0 to 100, and the loss and the seconds of each pretraining.
        report: Called with a line about what is done.

    Returns:
        The score of each training.
    """
    wanted = jobs(setting)
    for name in setting.data:
        root = data_root(name, setting)
        folder = setting.work_dir / name / 'pretraining'
        weights = folder / f'iter_{setting.pretrain_iters}.pth'
        key = f'{name}-pretraining'
        if key not in ledger.results or not weights.exists():
            # Each training has a process to itself: the toolboxes leave much behind in theirs.
            ledger.add(key, in_new_process(pretrain_once, name, root, setting, folder))
            report(f'{key}: {ledger.results[key]}')
        for number, job in enumerate(wanted, 1):
            if job.data == name and job.name not in ledger.results:
                score = in_new_process(train_once, job, root, setting, weights)
                ledger.add(job.name, score)
                report(f'({number}/{len(wanted)}) {job.name}: {score:.1f}')
    return {job: ledger.results[job.name] for job in wanted}


def data_root(name: str, setting: Namespace) -> Path:
    """Return the folder of a data set; the shapes are made if they are not there."""
    if name == 'bccd':
        return setting.bccd
    made = make_shapes(
        setting.work_dir / name / 'data',
        num_train=setting.unlabelled,
        num_val=setting.validation,
        progress=True,
    )
    return made.root


def pretrain_once(name: str, root: Path, setting: Namespace, folder: Path) -> dict[str, float]:
    """Pretrain on all training images of a data set, with labels or without.

    Returns:
        Its last `loss`, and the `seconds` that it took.
    """
    config, iters = CONFIGS / 'pretrain' / 'mae_hiera-demo_shapes.py', setting.pretrain_iters
    changes = {
        **_length(Config.fromfile(config), iters),
        **_under('train_dataloader', IN_PROCESS),
        **_under('model.backbone.arch', ARCH),
    }
    images = root / DATA[name].images
    pretrain(config, images, work_dir=str(folder), resume='auto', cfg_options=changes)
    losses = read_history(folder).losses
    seconds = fmean(logged['time'] for logged in losses.values()) * iters
    return {'loss': losses[max(losses)]['loss'], 'seconds': seconds}


def train_once(job: Job, root: Path, setting: Namespace, weights: Path) -> float:
    """Train with few labels, and return the score, 0 to 100."""
    task = TASKS[job.task]
    folder = setting.work_dir / job.data / job.name
    changes = changes_for(job, root, setting, weights)
    runner = train(task.config, work_dir=str(folder), cfg_options=changes)
    found = runner.message_hub.log_scalars.get(f'val/{task.key}')
    # A detector that found nothing at all has no metrics.
    return 100 / task.full * found.current() if found else 0.0


def changes_for(job: Job, root: Path, setting: Namespace, weights: Path) -> dict[str, Any]:
    """Return what a training changes in its config; of `STARTS`, the weights are the difference."""
    task, data = TASKS[job.task], DATA[job.data]
    config = Config.fromfile(task.config)
    backbone = config.optim_wrapper.paramwise_cfg.custom_keys.backbone
    images = len(list((root / data.images).iterdir()))
    changes = {
        **task.changes,
        **data.changes,
        **_length(config, setting.train_iters),
        **_under('train_dataloader', IN_PROCESS),
        **_under('val_dataloader', IN_PROCESS),
        **_under('model.backbone.arch', ARCH),
        'train_dataloader.dataset.data_root': str(root),
        'val_dataloader.dataset.data_root': str(root),
        # Spread over all of them: neighbours may be alike.
        'train_dataloader.dataset.indices': [
            number * images // setting.labelled for number in range(setting.labelled)
        ],
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult': backbone.lr_mult * job.rate,
        'train_cfg.val_interval': setting.train_iters,
        'default_hooks.checkpoint': {'type': 'CheckpointHook', 'interval': -1, 'save_last': False},
        'randomness.seed': job.seed,
    }
    if job.task == 'detector':
        val = changes.get('val_dataloader.dataset.ann_file', config.val_annotations)
        changes['val_evaluator.ann_file'] = str(root / val)
    if job.start == 'MAE':
        init_cfg = {'type': 'Pretrained', 'checkpoint': str(weights)}
        changes['model.backbone.init_cfg'] = init_cfg
    return changes


def _length(config: Config, iters: int) -> dict[str, Any]:
    """Return what makes a training as long as that; its warm-up is at most half of it."""
    warmup = min(config.param_scheduler[0].end, iters // 2)
    return {
        'train_cfg.max_iters': iters,
        'param_scheduler.0.end': warmup,
        'param_scheduler.1.begin': warmup,
        'param_scheduler.1.end': iters,
        'default_hooks.logger.interval': min(config.default_hooks.logger.interval, iters),
    }


def _under(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f'{key}.{name}': value for name, value in values.items()}


def groups(scores: Mapping[Job, float]) -> dict[tuple[str, str, float], dict[str, list[float]]]:
    """Return for each data set, task and rate the scores of each start, in the order of seeds."""
    result: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for job, score in scores.items():
        group = result.setdefault((job.data, job.task, job.rate), {start: [] for start in STARTS})
        group[job.start].append(score)
    return result


def scores_table(scores: Mapping[Job, float]) -> str:
    """Return a Markdown table: two rows for each data set, task and rate, a column for a seed."""
    seeds = list(dict.fromkeys(job.seed for job in scores))
    rows = [
        (data, TASKS[task].score, f'{rate:g}', start, *(f'{s:.1f}' for s in (*each, fmean(each))))
        for (data, task, rate), group in groups(scores).items()
        for start, each in group.items()
    ]
    head = ('data', 'score', 'rate', 'from', *(f'seed {seed}' for seed in seeds), 'mean')
    return table(head, rows, texts=4)


def draw_scores(scores: Mapping[Job, float], file: Path) -> None:
    """Draw a panel for each data set, task and rate, and in it a line for each seed."""
    found = groups(scores)
    figure = Figure(figsize=(2.6 * len(found), 3.4), dpi=120, layout='constrained')
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, ((data, task, rate), group) in zip(panels, found.items(), strict=True):
        axes.plot(STARTS, [group[start] for start in STARTS], marker='o', color='tab:blue')
        title = data if rate == 1 else f"{data}, backbone's rate x {rate:g}"
        axes.set_title(title, fontsize='medium')
        axes.set_ylabel(TASKS[task].score)
        axes.set_ylim(0, 1.1 * max(*group['scratch'], *group['MAE'], 1))
        axes.margins(x=0.3)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(file)
