"""A config file and the command line become one complete config.

The options that the toolboxes' own scripts have are changes of the config, the `use_*` below.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    STRATEGIES,
    TRANSFORMS,
)
from mmengine.runner import FlexibleRunner, Runner

from ..errors import CheckpointError, ConfigError, did_you_mean, listing, nearest
from ..network import VARIANTS, Variant
from ..network.position import kind_of
from ..weights import variant_of

TRACKERS = {
    'tensorboard': ('tensorboard', 'TensorboardVisBackend'),
    'wandb': ('wandb', 'WandbVisBackend'),
    'mlflow': ('mlflow', 'MLflowVisBackend'),
}
"""Experiment trackers: the package that each needs, and mmengine's name for it."""

TOOLBOXES = ('mmdet', 'mmseg')
"""Scopes whose models can be tried out and whose predictions can be drawn."""

_FSDP = 'HieraFSDPStrategy'
_REGISTRIES = (DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, STRATEGIES, TRANSFORMS)
_PACKAGE = Path(__file__).parents[1]
_CONFIG_FOLDERS = (Path('configs'), _PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs')
# The settings of a config that are read, by mmengine's runners or by inference.
_READ = {
    *signature(FlexibleRunner).parameters, *signature(Runner).parameters, 'custom_imports',
    'detect_anomalous_params', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type',
    'sync_bn', 'test_pipeline', 'tta_model', 'tta_pipeline',
}  # fmt: skip


def load_config(
    path: str | Path,
    *,
    needs: Sequence[str] = ('model',),
    work_dir: str | Path | None = None,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config of any OpenMMLab toolbox and merge the command line into it.

    Args:
        path: The config file.
        needs: Top-level keys without which the job at hand makes no sense.
        work_dir: Folder for logs and checkpoints; by default the config's own, else
            ``./work_dirs/<config name>``.
        cfg_options: Values to override, by dotted key, or as the command line has them:
            ``['train_cfg.max_epochs=12', ...]``.
        launcher: How the processes are started: ``'none'``, ``'pytorch'``, ``'slurm'``, ``'mpi'``.

    Returns:
        The config. It imports `hiera_mm` by itself if it names anything of it, so that the copy
        in the work dir is complete.

    Raises:
        ConfigError: If the file is missing, cannot be read, lacks what is needed, or if an option
            would have no effect.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f'Config {path} does not exist.{_nearest(path)}')
    overrides = read_overrides(cfg_options or {})
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(overrides)
        list(
            walk(dict(cfg.items()))
        )  # pure-Python configs import what they name when it is looked at
    except Exception as error:  # a config is a program: it may raise anything
        raise ConfigError(f'Config {path} cannot be read: {error}') from error
    _check_overrides(cfg, overrides)
    _warn_of_variables(overrides)
    missing = [key for key in needs if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f'Config {path} has no {listing(missing)}. It has {listing(sorted(cfg), 20)}: is it '
            'one of the _base_ files, meant to be built upon?'
        )
    cfg.launcher = launcher
    if scope := scope_of(cfg):
        cfg.default_scope = scope
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'./work_dirs/{path.stem}'
    _complete_imports(cfg, path)
    return cfg


def read_overrides(options: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Return what ``--cfg-options KEY=VALUE ...`` says, by dotted key; a dict stays as it is.

    Raises:
        ConfigError: If an option is not written as ``KEY=VALUE``, or its brackets do not match.
    """
    if isinstance(options, Mapping):
        return dict(options)
    result = Namespace()
    try:
        DictAction(['--cfg-options'], 'overrides')(None, result, options)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f'--cfg-options takes KEY=VALUE, with lists as KEY="[a,b]"; got {" ".join(options)}'
        ) from error
    return result.overrides


def walk(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dict in a config, outermost first."""
    return (inner for _, inner in _walk(node))


def _walk(node: Any, place: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every dict in a config with its place in it, as ``'backbone.'``, outermost first."""
    if isinstance(node, Mapping):
        yield place, node
        items = list(node.items())
    elif isinstance(node, list | tuple):
        items = list(enumerate(node))
    else:
        return
    for key, item in items:
        yield from _walk(item, f'{place}{key}.')


def type_name(node: Any) -> str:
    """Return the bare name of what a config's dict makes, ``''`` if it does not say.

    In a pure-Python config `type` is a class or a function; in the others it is text, which may
    have a scope or a module before the name.
    """
    kind = node.get('type') if isinstance(node, Mapping) else None
    return getattr(kind, '__name__', str(kind or '')).rpartition('.')[2]


def scope_of(cfg: Mapping[str, Any]) -> str | None:
    """Return the scope of a config: pure-Python ones set none, and their model's class tells it."""
    kind = (cfg.get('model') or {}).get('type')
    bases = [base.__module__ for base in kind.__mro__] if isinstance(kind, type) else [str(kind)]
    packages = (base.partition('.')[0] for base in bases)
    return cfg.get('default_scope') or next((p for p in packages if p in TOOLBOXES), None)


def as_list(value: Any) -> list[Any]:
    """Return the items of what a config gives as one thing, as several, or as None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def warn(message: str) -> None:
    """Log what might be a mistake."""
    print_log(message, logger='current', level=logging.WARNING)


def check_scope(cfg: Mapping[str, Any], path: str | Path) -> str:
    """Return the scope; raise a ConfigError unless it is a toolbox that this package knows."""
    scope = scope_of(cfg)
    if scope not in TOOLBOXES:
        raise ConfigError(
            f'Config {path} has default_scope = {scope!r}; here it has to be one of '
            f'{" and ".join(map(repr, TOOLBOXES))}.'
        )
    return scope


def resolve_arch(cfg: Config, checkpoint: str | Path | None = None) -> None:
    """Write the architecture in place of each ``arch='auto'``, so that it does not need `init_cfg`.

    The toolboxes' `init_detector` and `init_model` remove `init_cfg` before they build a model.

    Args:
        cfg: The config; its model is changed in place.
        checkpoint: Weights of the whole model, which tell the architecture as well where those
            that `init_cfg` names are not at hand.

    Raises:
        CheckpointError: If the weights cannot be read, or do not tell their architecture.
    """
    for place, node in _walk(cfg.model):
        if type_name(node) != 'Hiera' or node.get('arch') != 'auto':
            continue
        inits = [
            init
            for init in as_list(node.get('init_cfg'))
            if isinstance(init, Mapping) and init.get('checkpoint')
        ]
        sources = [(init['checkpoint'], init.get('prefix')) for init in inits]
        if checkpoint is not None:
            sources.append((checkpoint, place))
        if not sources:
            continue  # the backbone says what is missing
        variant = _first_variant(sources)
        names = [name for name, published in VARIANTS.items() if published == variant]
        position = dict(type=kind_of(variant.pos_embed), **asdict(variant.pos_embed))
        node['arch'] = names[0] if names else dict(asdict(variant), pos_embed=position)


def _first_variant(sources: list[tuple[str | Path, str | None]]) -> Variant:
    """Return the architecture that the first usable source of weights tells."""
    for source in sources[:-1]:
        with suppress(CheckpointError):
            return variant_of(*source)
    return variant_of(*sources[-1])


def use_amp(cfg: Config, dtype: str) -> None:
    """Train in mixed precision: ``'float16'`` with a scaled loss, or ``'bfloat16'`` without.

    Raises:
        ConfigError: If there is no accelerator, for which mmengine's mixed precision is made, or
            if the config has an optimizer wrapper of its own.
    """
    wrapper = type_name(cfg.optim_wrapper) or 'OptimWrapper'
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
    if type_name(cfg.optim_wrapper) == 'AmpOptimWrapper':
        cfg.optim_wrapper.use_fsdp = True
    _import_hiera_mm(cfg)


def shards(cfg: Config) -> bool:
    """Whether a config shards its model."""
    return type_name(cfg.get('strategy')) == _FSDP


def drop_fsdp(cfg: Config) -> None:
    """Test without shards: a checkpoint holds the whole model, and testing keeps no gradients."""
    if shards(cfg):
        cfg.pop('strategy')
        cfg.pop('runner_type', None)


def use_ema(cfg: Config) -> None:
    """Average the weights over the training; the average is tested and saved.

    Raises:
        ConfigError: If the weights are sharded, which mmengine cannot average.
    """
    if cfg.get('strategy') is not None:
        raise ConfigError('--ema averages whole weights, and --fsdp shards them. Leave one out.')
    hooks = as_list(cfg.get('custom_hooks'))
    if any(type_name(hook) == 'EMAHook' for hook in hooks):
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
    chosen = [TRACKERS[name] for name in dict.fromkeys(names)]
    missing = [package for package, _ in chosen if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f'--track: {" and ".join(missing)} must be installed first: '
            f'pip install {" ".join(missing)}'
        )
    if cfg.get('visualizer') is None:
        raise ConfigError('--track: the config has no visualizer that could do it.')
    backends = as_list(cfg.visualizer.get('vis_backends'))
    present = {type_name(backend) for backend in backends}
    new = [ConfigDict(type=backend) for _, backend in chosen if backend not in present]
    cfg.visualizer.vis_backends = [*backends, *new]


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the total batch size.

    Raises:
        ConfigError: If the config does not say for which batch size its learning rate is.
    """
    if cfg.get('auto_scale_lr', {}).get('base_batch_size') is None:
        raise ConfigError(
            '--auto-scale-lr needs to know for which batch size the learning rate was chosen. Add '
            'auto_scale_lr = dict(enable=False, base_batch_size=16) to the config.'
        )
    cfg.auto_scale_lr.enable = True


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
    """Test with augmented copies of each image; for mmdet, flipping and NMS are the default.

    Raises:
        ConfigError: If the config has no `tta_model` or `tta_pipeline`, and the toolbox no default.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmdet':
        tta_cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        cfg.setdefault('tta_model', ConfigDict(type='DetTTAModel', tta_cfg=tta_cfg))
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip')
        pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip_direction'))
        augment = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.setdefault('tta_pipeline', [*dataset.pipeline[:-1], augment])
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ConfigError(f'--tta: the config has no {" and no ".join(missing)}.')
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _complete_imports(cfg: Config, path: Path) -> None:
    """Let a config that names something of `hiera_mm` import it, with a warning if it did not."""
    ours = {
        name
        for registry in _REGISTRIES
        for name, item in registry.module_dict.items()
        if item.__module__.partition('.')[0] == 'hiera_mm'
    }
    named = sorted(ours & {str(node.get('type')) for node in walk(cfg.to_dict())})
    if named and _import_hiera_mm(cfg):
        warn(
            f'{path} names {listing(named)} and does not import hiera_mm. It was imported this '
            "time; the toolboxes' own scripts will fail until you add the line\n"
            "custom_imports = dict(imports=['hiera_mm'], allow_failed_imports=False)"
        )


def _import_hiera_mm(cfg: Config) -> bool:
    """Add `hiera_mm` to what a config imports; return whether it was missing."""
    imports = cfg.get('custom_imports') or {}
    modules = as_list(imports.get('imports'))
    if any(name.partition('.')[0] == 'hiera_mm' for name in modules):
        return False
    cfg.custom_imports = {**imports, 'imports': [*modules, 'hiera_mm']}
    return True


def _check_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Refuse an override of a config's variable after the data sets were made from it."""
    datasets = [node for node in walk(cfg.to_dict()) if 'data_root' in node and 'type' in node]
    roots = {str(node['data_root']).rstrip('/') for node in datasets}
    root = overrides.get('data_root')
    if root is not None and datasets and str(root).rstrip('/') not in roots:
        raise ConfigError(
            f'--cfg-options data_root={root} changes a variable that the data sets were already '
            f'made from; they still use {listing(sorted(roots))}. Change data_root in a copy of '
            'the config, or override train_dataloader.dataset.data_root, '
            'val_dataloader.dataset.data_root, and so on.'
        )
    if 'classes' in overrides and datasets:
        raise ConfigError(
            '--cfg-options classes=... changes a variable that the data sets and heads were '
            'already made from. Change classes in a copy of the config.'
        )


def _warn_of_variables(overrides: Mapping[str, Any]) -> None:
    """Warn of overrides that only other lines of a config could use, which were run before."""
    names = dict.fromkeys(key.partition('.')[0] for key in overrides)
    unread = [name for name in names if name not in _READ]
    if unread:
        warn(
            f'--cfg-options {unread[0]}: mmengine reads no such setting'
            f'{did_you_mean(unread[0], _READ)}. If it is a variable of the config, what was made '
            'from it keeps the old value: override that instead, or change a copy of the config.'
        )


def configs_near(path: Path) -> list[str]:
    """Return the configs of a file's folder and our own, from the current folder where below it."""
    found = {str(file) for file in path.parent.glob('*.py')}
    for folder in dict.fromkeys(folder.resolve() for folder in _CONFIG_FOLDERS):
        for file in folder.rglob('*.py'):
            if '_base_' not in file.parts:
                below = Path.cwd() in file.parents
                found.add(str(file.relative_to(Path.cwd()) if below else file))
    return sorted(found)


def _nearest(path: Path) -> str:
    """Return a sentence that names the configs whose names are closest to `path`, or ''."""
    by_name = {Path(file).name: file for file in configs_near(path)}
    return nearest(path.with_suffix('.py').name, by_name) or f' Looked for {path.absolute()}.'
