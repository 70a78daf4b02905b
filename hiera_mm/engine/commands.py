"""Training and testing: a config and the command line's options become a run of mmengine."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import METRICS, RUNNERS, DefaultScope
from mmengine.runner import CheckpointLoader, Runner
from torch import nn
from tqdm import tqdm

from ..backbone import Hiera
from ..errors import CheckpointError, ConfigError, UserError
from ..network.block import Block
from . import config as options
from .checkpoints import make_loading_safe, make_saving_safe, use_resume
from .data_checks import check_data, check_heads
from .fit import check_pretrained, require_complete, require_start, state_dict_of
from .launch import make_folder, prepare_processes
from .loops import kept_random_state, use_exact_loop
from .rehearsal import SKIP_CHECKS, Rehearsal
from .schedule_checks import ScheduleChecks

TRAIN_NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
TEST_NEEDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')
_COMPILED_VERSIONS = 64  # of a block's code: kinds of blocks, in training and in evaluation
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
    skip_checks: bool = False,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
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
            :data:`hiera_mm.engine.config.TRACKERS`.
        skip_checks: Whether to leave out the checks of data and schedule and the trial of the
            validation.
        cfg_options: Values of the config to override, by dotted key or as ``'KEY=VALUE'``.
        launcher: How the processes were started.

    Returns:
        The runner, after training.

    Raises:
        ConfigError: If config or options are wrong.
        DataError: If data is missing, damaged, or does not match the config.
        CheckpointError: If a checkpoint is unusable or belongs to another model.
    """
    make_loading_safe()
    cfg = options.load_config(
        config, needs=TRAIN_NEEDS, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher
    )
    make_saving_safe(cfg)
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
    use_resume(cfg, resume)
    options.resolve_arch(cfg)
    start = cfg.get('load_from')
    checkpoint = CheckpointLoader.load_checkpoint(start, 'cpu') if start else None
    resumes = checkpoint is not None and cfg.get('resume')
    if resumes and 'seed' in checkpoint.get('meta', {}):
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': checkpoint['meta']['seed']}
    runner, model = _build_runner(cfg)
    if not skip_checks:
        _check(cfg, model, ('train', 'val'))
        runner.register_hook(Rehearsal())
        runner.register_hook(ScheduleChecks())
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
    with _mistakes_in_config():
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
    skip_checks: bool = False,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
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
        skip_checks: Whether to leave out the checks of the data.
        cfg_options: Values of the config to override, by dotted key or as ``'KEY=VALUE'``.
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
    cfg = options.load_config(
        config, needs=TEST_NEEDS, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher
    )
    scope = cfg.get('default_scope')
    options.drop_fsdp(cfg)
    options.resolve_arch(cfg, checkpoint)
    if show or show_dir:
        options.use_drawing(cfg, show, show_dir, wait_time)
    if tta:
        options.use_tta(cfg)
    if out is not None and scope == 'mmseg':
        make_folder(out)
        for evaluator in options.as_list(cfg.test_evaluator):
            evaluator.output_dir = out
            evaluator.keep_results = True  # with the numbers of the data set
    elif out is not None:
        if Path(out).suffix not in ('.pkl', '.pickle'):
            raise ConfigError(f'--out {out}: the predictions are saved as a .pkl file.')
        make_folder(Path(out).parent)
    weights = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    cfg.load_from = checkpoint
    cfg.resume = False
    runner, model = _build_runner(cfg)
    if not skip_checks:
        _check(cfg, model, ('test',))
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


def _build_runner(cfg: Config) -> tuple[Runner, Any]:
    """Build the runner; return it and its model, without wrapper."""
    prepare_processes(cfg)
    make_folder(cfg.work_dir)
    with _mistakes_in_config():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        if isinstance(runner.model, dict):  # with a strategy it is built when the work begins
            runner.model = runner.strategy.build_model(runner.model)
    return runner, runner.model.module if is_model_wrapper(runner.model) else runner.model


@contextmanager
def _mistakes_in_config() -> Iterator[None]:
    """Turn what mmengine raises for a misspelt type or option into a `ConfigError`."""
    try:
        yield
    except (TypeError, KeyError) as error:
        if re.search(r'unexpected keyword argument|is not in the \S+ registry', str(error)):
            raise ConfigError(
                f'Something in the config cannot be built: {error.args[0]}'
            ) from error
        raise


def _check(cfg: Config, model: nn.Module, splits: tuple[str, ...]) -> None:
    """Check the data in one process of each machine; what it finds is raised in all processes."""
    found = None
    if os.environ.get('LOCAL_RANK', '0') == '0':
        try:
            with kept_random_state():
                classes = check_data(cfg, splits)
                if classes is not None:
                    check_heads(model, classes)
        except UserError as error:
            found = error
        except Exception as error:  # a check that fails is no reason not to train
            options.warn(f'The data could not be checked: {type(error).__name__}: {error}')
    found = next((error for error in all_gather_object(found) if error is not None), None)
    if found is not None:
        raise type(found)(f'{found}\nTo go on without this check: {SKIP_CHECKS}.')


def compile_hiera(model: nn.Module) -> None:
    """Compile the blocks of each Hiera in a model, and of a decoder made of the same, in place.

    Block by block, because blocks of one kind then share what is compiled, so that the wait does
    not grow with depth; and with the number of windows left open, because images of detectors
    differ in size. A whole Hiera would be compiled anew, for minutes, when the size first changes.
    Heads and losses are left out: they work on lists of boxes, whose lengths always change.

    Args:
        model: The model.

    Raises:
        ConfigError: If there is no Hiera in it.
    """
    backbones = [module for module in model.modules() if isinstance(module, Hiera)]
    if not backbones:
        raise ConfigError(
            '--compile compiles the Hiera in a model, and this model has none. For another '
            'backbone, set compile=True in the config, which compiles the whole training step.'
        )
    allow_compiled_versions(_COMPILED_VERSIONS)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    print_log(
        f'--compile: the {len(blocks)} blocks of Hiera are compiled when first used: the '
        'first iterations take minutes.',
        logger='current',
    )
    progress = tqdm(
        total=len(blocks), desc='compiling', unit='block', disable=not is_main_process()
    )
    for block in blocks:
        block.compile(dynamic=True)
        _count_first_call(block, progress)


def allow_compiled_versions(number: int) -> None:
    """Let a piece of code be compiled so often; beyond torch's limit of 8 it quietly is not."""
    settings = torch._dynamo.config
    limit = 'recompile_limit' if hasattr(settings, 'recompile_limit') else 'cache_size_limit'
    setattr(settings, limit, max(getattr(settings, limit), number))


def _count_first_call(block: nn.Module, progress: tqdm) -> None:
    """Let a block report its first forward pass with gradients, when it is compiled."""
    compiled = block._compiled_call_impl  # a hook would become part of what is compiled

    def first(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # the trial of the validation is not worth the minutes
            return block._call_impl(*args, **kwargs)
        output = compiled(*args, **kwargs)
        block._compiled_call_impl = compiled
        progress.update()
        if progress.n == progress.total:
            progress.close()
        return output

    block._compiled_call_impl = first
