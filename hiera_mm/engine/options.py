"""The options that the toolboxes' own scripts have, each a change of the config."""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from ..errors import ConfigError
from .config import as_list


def use_amp(cfg: Config) -> None:
    """Train in mixed precision.

    Args:
        cfg: The config; changed in place.

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
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


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
        resume: A checkpoint, or ``'auto'`` for the latest one in the work dir.
    """
    if resume == 'auto':
        latest = find_latest_checkpoint(cfg.work_dir)
        if latest is None:
            print_log(
                f'--resume: {cfg.work_dir} has no checkpoint yet, so training starts anew.',
                logger='current',
                level=logging.WARNING,
            )
            return
        # The note of the latest checkpoint holds a path that is stale if the folder was moved.
        beside = Path(cfg.work_dir) / Path(latest).name
        resume = str(beside) if beside.is_file() else latest
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
