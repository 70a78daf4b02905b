"""The options that the toolboxes' own scripts have, each a change of the config."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log

from ..errors import ConfigError
from .config import as_list
from .resume import latest_whole_checkpoint


@dataclass(frozen=True)
class Tracker:
    """An experiment tracker that mmengine can write to.

    Attributes:
        package: What is to be installed, and imported.
        backend: mmengine's name for it.
    """

    package: str
    backend: str

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None


_FSDP = 'HieraFSDPStrategy'

TRACKERS = {
    'tensorboard': Tracker('tensorboard', 'TensorboardVisBackend'),
    'wandb': Tracker('wandb', 'WandbVisBackend'),
    'mlflow': Tracker('mlflow', 'MLflowVisBackend'),
}
"""By the names that ``--track`` takes."""


def use_amp(cfg: Config, dtype: str) -> None:
    """Train in mixed precision.

    Args:
        cfg: The config; changed in place.
        dtype: ``'float16'``, with a scaled loss, or ``'bfloat16'``, which needs no scaling.

    Raises:
        ConfigError: If there is no accelerator, for which mmengine's mixed precision is made, or
            if the config has an optimizer wrapper of its own.
    """
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp replaces an OptimWrapper, and this config has a {wrapper}. Set up mixed '
            'precision in the config.'
        )
    if get_device() in ('cpu', 'mps'):
        raise ConfigError(
            f"--amp needs a GPU: mmengine's mixed precision does not run on {get_device()}. "
            'Leave --amp out.'
        )
    if wrapper == 'AmpOptimWrapper':
        print_log('--amp: the config trains in mixed precision already.', logger='current')
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = dtype
    cfg.optim_wrapper.loss_scale = 'dynamic' if dtype == 'float16' else {'enabled': False}


def use_fsdp(cfg: Config) -> None:
    """Shard model, gradients and optimiser over the processes.

    Args:
        cfg: The config; changed in place.

    Raises:
        ConfigError: If the config has another strategy.
    """
    if shards(cfg):
        print_log('--fsdp: the config shards the model already.', logger='current')
        return
    if cfg.get('strategy') is not None or cfg.get('runner_type') is not None:
        raise ConfigError(
            '--fsdp: the config chooses a runner and a strategy of its own. Leave --fsdp out, or '
            'remove runner_type and strategy.'
        )
    cfg.runner_type = 'FlexibleRunner'
    cfg.strategy = ConfigDict(type=_FSDP)
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.use_fsdp = True


def shards(cfg: Config) -> bool:
    """Whether a config shards its model."""
    return (cfg.get('strategy') or {}).get('type') == _FSDP


def drop_fsdp(cfg: Config) -> None:
    """Test without shards: a checkpoint holds the whole model, and testing keeps no gradients.

    Args:
        cfg: The config, perhaps the copy that a training with shards left; changed in place.
    """
    if shards(cfg):
        cfg.pop('strategy')
        cfg.pop('runner_type', None)


def use_ema(cfg: Config) -> None:
    """Average the weights over the training; the average is tested and saved.

    Args:
        cfg: The config; changed in place.

    Raises:
        ConfigError: If the weights are sharded, which mmengine cannot average.
    """
    if cfg.get('strategy') is not None:
        raise ConfigError('--ema averages whole weights, and --fsdp shards them. Leave one out.')
    hooks = as_list(cfg.get('custom_hooks'))
    if any(hook.get('type') == 'EMAHook' for hook in hooks):
        print_log('--ema: the config averages its weights already.', logger='current')
        return
    # Buffers too: the running statistics of batch norms belong to the weights.
    hook = ConfigDict(type='EMAHook', ema_type='ExponentialMovingAverage', update_buffers=True)
    cfg.custom_hooks = [*hooks, hook]


def use_trackers(cfg: Config, names: Sequence[str]) -> None:
    """Send losses, scores and drawings to experiment trackers as well.

    Args:
        cfg: The config; changed in place.
        names: Of :data:`TRACKERS`.

    Raises:
        ConfigError: If a tracker is not installed, or the config has no visualizer.
    """
    missing = [TRACKERS[name].package for name in names if not TRACKERS[name].installed]
    if missing:
        raise ConfigError(
            f'--track: {" and ".join(missing)} must be installed first: '
            f'pip install {" ".join(missing)}'
        )
    if cfg.get('visualizer') is None:
        raise ConfigError('--track: the config has no visualizer that could do it.')
    backends = as_list(cfg.visualizer.get('vis_backends'))
    present = {backend['type'] for backend in backends}
    new = [ConfigDict(type=TRACKERS[name].backend) for name in dict.fromkeys(names)]
    cfg.visualizer.vis_backends = [*backends, *(b for b in new if b.type not in present)]


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the total batch size.

    Args:
        cfg: The config; changed in place.

    Raises:
        ConfigError: If the config does not say for which batch size its learning rate is.
    """
    if cfg.get('auto_scale_lr', {}).get('base_batch_size') is None:
        raise ConfigError(
            '--auto-scale-lr needs to know for which batch size the learning rate was chosen. Add '
            'auto_scale_lr = dict(enable=False, base_batch_size=16) to the config.'
        )
    cfg.auto_scale_lr.enable = True


def use_resume(cfg: Config, resume: str) -> None:
    """Go on from a checkpoint, with its optimizer and its place in the schedule.

    Args:
        cfg: The config; changed in place. If there is nothing to resume from, it is left to start
            anew, from its own `load_from` if it has one.
        resume: A checkpoint, or ``'auto'`` for the latest one in the work dir that is whole.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    if resume == 'auto':
        latest = latest_whole_checkpoint(cfg.work_dir)
        if latest is None:
            print_log(
                f'--resume: {cfg.work_dir} has no checkpoint yet, so training starts anew.',
                logger='current',
                level=logging.WARNING,
            )
            return
        resume = latest
    cfg.resume = True
    cfg.load_from = resume


def use_drawing(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draw predictions while testing.

    Args:
        cfg: The config; changed in place.
        show: Whether to open a window.
        show_dir: Folder for the drawings, as the toolboxes take it: mmdet puts a relative one
            below ``<work dir>/<time>/``, the others use it as it is.
        wait_time: Seconds for which a window stays.

    Raises:
        ConfigError: If the config has no hook that draws.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError(
            '--show and --show-dir need a hook that draws. Add to default_hooks: '
            "visualization=dict(type='DetVisualizationHook') with mmdet, "
            "visualization=dict(type='SegVisualizationHook') with mmseg."
        )
    hook.draw = True
    if cfg.get('default_scope') == 'mmseg':
        hook.interval = 1  # mmseg 1.2 would draw one image in fifty
    if show:
        hook.show = True
        hook.wait_time = wait_time
    if show_dir and cfg.get('default_scope') == 'mmdet':
        hook.test_out_dir = show_dir
    elif show_dir:
        cfg.visualizer.save_dir = show_dir


def use_tta(cfg: Config) -> None:
    """Test with augmented copies of each image.

    Args:
        cfg: The config; changed in place. For mmdet, flipping and NMS are the default.

    Raises:
        ConfigError: If the config has no `tta_model` or `tta_pipeline`, and the toolbox no default.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmdet':
        cfg.setdefault('tta_model', ConfigDict(_MMDET_TTA_MODEL))
        flipped = [{'type': 'RandomFlip', 'prob': prob} for prob in (1.0, 0.0)]
        pack = {'type': 'PackDetInputs', 'meta_keys': _MMDET_TTA_KEYS}
        augment = {'type': 'TestTimeAug', 'transforms': [flipped, [pack]]}
        cfg.setdefault('tta_pipeline', [*dataset.pipeline[:-1], augment])
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ConfigError(f'--tta: the config has no {" and no ".join(missing)}.')
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def save_label_maps(cfg: Config, folder: str) -> None:
    """Save mmseg's predictions as label maps while testing, with the numbers of the data set.

    Args:
        cfg: The config; changed in place.
        folder: Where the maps go.
    """
    for evaluator in as_list(cfg.test_evaluator):
        evaluator.output_dir = folder
        evaluator.keep_results = True


_MMDET_TTA_MODEL = {
    'type': 'DetTTAModel',
    'tta_cfg': {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 100},
}
_MMDET_TTA_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)
