"""Training and testing: a config and the command line's options become a run of mmengine."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import METRICS, RUNNERS, DefaultScope
from mmengine.runner import CheckpointLoader, Runner

from ..errors import CheckpointError, ConfigError
from . import options
from .compiling import compile_hiera
from .config import load_config
from .data_checks import check_data, check_heads
from .exact_loops import use_exact_loop
from .fit import check_pretrained, require_complete, require_start, state_dict_of
from .paths import make_folder
from .processes import prepare_processes
from .safe_loading import make_loading_safe
from .safe_saving import make_saving_safe

TRAIN_NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
TEST_NEEDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')
_RESUME_NEEDS = ('meta', 'optimizer', 'message_hub')


def train(
    config: str | Path,
    *,
    work_dir: str | None = None,
    amp: bool = False,
    amp_dtype: str = 'float16',
    auto_scale_lr: bool = False,
    compile: bool = False,
    ema: bool = False,
    fsdp: bool = False,
    resume: str | None = None,
    track: Sequence[str] = (),
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> Runner:
    """Train the model of a config; everything that can be checked is checked first.

    Args:
        config: Config file of mmdet, mmseg or another OpenMMLab toolbox.
        work_dir: Folder for logs and checkpoints.
        amp: Whether to use mixed precision.
        amp_dtype: Its lower precision, ``'float16'`` or ``'bfloat16'``.
        auto_scale_lr: Whether to scale the learning rate with the total batch size.
        compile: Whether to compile the blocks of the Hiera in the model.
        ema: Whether to test and save an average of the weights.
        fsdp: Whether to shard model and optimiser over the processes.
        resume: Checkpoint to go on from, or ``'auto'`` for the latest one in the work dir.
        track: Experiment trackers to write to, by their names in
            :data:`hiera_mm.engine.options.TRACKERS`.
        cfg_options: Values of the config to override, by dotted key.
        launcher: How the processes were started.

    Returns:
        The runner, after training.

    Raises:
        ConfigError: If config or options are wrong.
        DataError: If data is missing, damaged, or does not match the config.
        CheckpointError: If a checkpoint is unusable or belongs to another model.
    """
    make_loading_safe()
    make_saving_safe()
    cfg = load_config(
        config, needs=TRAIN_NEEDS, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher
    )
    if amp:
        options.use_amp(cfg, amp_dtype)
    if fsdp:
        options.use_fsdp(cfg)
    if ema:
        options.use_ema(cfg)
    if track:
        options.use_trackers(cfg, track)
    if auto_scale_lr:
        options.use_auto_scale_lr(cfg)
    if resume is not None:
        options.use_resume(cfg, resume)
    start = cfg.get('load_from')
    checkpoint = CheckpointLoader.load_checkpoint(start, 'cpu') if start else None
    resumes = checkpoint is not None and cfg.get('resume')
    if resumes:
        seed = checkpoint.get('meta', {}).get('seed')
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    runner, model = _build_runner(cfg, ('train', 'val'))
    check_pretrained(model)
    if resumes:
        require_complete(model, checkpoint, start)
        missing = [key for key in _RESUME_NEEDS if key not in checkpoint]
        if missing:
            raise CheckpointError(
                f'{start} cannot be resumed from: it has no {" and no ".join(missing)}. '
                'To start a new training from its weights, use --cfg-options load_from=FILE.'
            )
    elif checkpoint is not None:
        require_start(model, state_dict_of(checkpoint, start), start, 'load_from')
    del checkpoint
    gc.collect()  # the runner reads the file once more; do not hold it twice
    if compile:
        compile_hiera(model)
    use_exact_loop(runner)
    runner.train()
    return runner


def test(
    config: str | Path,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    tta: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint on the test set of a config.

    Args:
        config: Config file of mmdet, mmseg or another OpenMMLab toolbox.
        checkpoint: The checkpoint.
        work_dir: Folder for the log and the scores.
        out: Where to save predictions: with mmseg a folder for label maps, else a ``.pkl`` file.
        show: Whether to show drawings in a window.
        show_dir: Folder for drawings.
        wait_time: Seconds for which a window stays.
        cfg_options: Values of the config to override, by dotted key.
        launcher: How the processes were started.
        tta: Whether to test with augmented copies of each image.

    Returns:
        The scores, by name.

    Raises:
        ConfigError: If config or options are wrong.
        DataError: If data is missing, damaged, or does not match the config.
        CheckpointError: If the checkpoint is unusable or belongs to another model.
    """
    make_loading_safe()
    cfg = load_config(
        config, needs=TEST_NEEDS, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher
    )
    scope = cfg.get('default_scope')
    options.drop_fsdp(cfg)
    if show or show_dir:
        options.use_drawing(cfg, show, show_dir, wait_time)
    if tta:
        options.use_tta(cfg)
    if out is not None and scope == 'mmseg':
        make_folder(out)
        options.save_label_maps(cfg, out)
    elif out is not None:
        if Path(out).suffix not in ('.pkl', '.pickle'):
            raise ConfigError(f'--out {out}: the predictions are saved as a .pkl file.')
        make_folder(Path(out).parent)
    weights = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    cfg.load_from = checkpoint
    cfg.resume = False
    runner, model = _build_runner(cfg, ('test',))
    if tta and getattr(getattr(model, 'module', None), 'with_mask', False):
        raise ConfigError('--tta: mmdet merges boxes and no masks; leave --tta out for this model.')
    require_complete(model, weights, checkpoint)
    del weights
    gc.collect()  # the runner reads the file once more; do not hold it twice
    if out is not None and scope != 'mmseg':
        dump = 'DumpDetResults' if scope == 'mmdet' else 'DumpResults'
        with DefaultScope.overwrite_default_scope(scope):
            metric = METRICS.build({'type': dump, 'out_file_path': out})
        runner.test_evaluator.metrics.append(metric)
    return runner.test()


def _build_runner(cfg: Config, splits: tuple[str, ...]) -> tuple[Runner, Any]:
    """Check the data of `splits`, build the runner; return it and its model, without wrapper."""
    classes = check_data(cfg, splits)
    prepare_processes(cfg)
    make_folder(cfg.work_dir)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if isinstance(runner.model, dict):  # a runner with a strategy builds it when the work begins
        runner.model = runner.strategy.build_model(runner.model)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if classes is not None:
        check_heads(model, classes)
    return runner, model
