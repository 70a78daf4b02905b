"""A config file and the options of the command line become one complete config."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS

from ..errors import ConfigError, listing
from ..network.names import nearest

_PACKAGE = Path(__file__).parents[1]
_CONFIG_FOLDERS = (Path('configs'), _PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs')


def load_config(
    path: str | Path,
    *,
    needs: Sequence[str] = ('model',),
    work_dir: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config of any OpenMMLab toolbox and merge the command line into it.

    Args:
        path: The config file.
        needs: Top-level keys without which the job at hand makes no sense.
        work_dir: Folder for logs and checkpoints; by default the config's own, else
            ``./work_dirs/<config name>``.
        cfg_options: Values to override, by dotted key.
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
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(dict(cfg_options or {}))
    except (OSError, SyntaxError, ImportError, TypeError, KeyError) as error:
        raise ConfigError(f'Config {path} cannot be read: {error}') from error
    _check_options_count(cfg, cfg_options or {})
    missing = [key for key in needs if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f'Config {path} has no {listing(missing)}. It has {listing(sorted(cfg), 20)}: is it '
            'one of the _base_ files, meant to be built upon?'
        )
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'./work_dirs/{path.stem}'
    _complete_imports(cfg, path)
    return cfg


def walk(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dict in a config, outermost first."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from walk(item)


def as_list(value: Any) -> list[Any]:
    """Return the items of what a config gives as one thing, as several, or as None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _complete_imports(cfg: Config, path: Path) -> None:
    """Let a config that names something of `hiera_mm` import it, with a warning if it did not."""
    imports = cfg.get('custom_imports') or {}
    modules = as_list(imports.get('imports'))
    named = sorted(_our_names() & {str(node.get('type')) for node in walk(cfg.to_dict())})
    if not named or any(name.partition('.')[0] == 'hiera_mm' for name in modules):
        return
    cfg.custom_imports = {**imports, 'imports': [*modules, 'hiera_mm']}
    print_log(
        f'{path} names {listing(named)} and does not import hiera_mm. It was imported this time; '
        "the toolboxes' own scripts will fail until you add the line\n"
        "custom_imports = dict(imports=['hiera_mm'], allow_failed_imports=False)",
        logger='current',
        level=logging.WARNING,
    )


def _our_names() -> set[str]:
    """Return the names under which `hiera_mm` registered things that a config may use."""
    return {
        name
        for registry in (MODELS, HOOKS, OPTIM_WRAPPER_CONSTRUCTORS)
        for name, item in registry.module_dict.items()
        if item.__module__.partition('.')[0] == 'hiera_mm'
    }


def _check_options_count(cfg: Config, cfg_options: Mapping[str, Any]) -> None:
    """Refuse an override of a config's variable after the data sets were made from it."""
    datasets = [node for node in walk(cfg.to_dict()) if 'data_root' in node and 'type' in node]
    roots = {str(node['data_root']).rstrip('/') for node in datasets}
    root = cfg_options.get('data_root')
    if root is not None and datasets and str(root).rstrip('/') not in roots:
        raise ConfigError(
            f'--cfg-options data_root={root} changes a variable that the data sets were already '
            f'made from; they still use {listing(sorted(roots))}. Change data_root in a copy of '
            'the config, or override train_dataloader.dataset.data_root, '
            'val_dataloader.dataset.data_root, and so on.'
        )
    if 'classes' in cfg_options and datasets:
        raise ConfigError(
            '--cfg-options classes=... changes a variable that the data sets and heads were '
            'already made from. Change classes in a copy of the config.'
        )


def _nearest(path: Path) -> str:
    """Return a sentence that names the configs whose names are closest to `path`, or ''."""
    candidates = {str(file) for file in path.parent.glob('*.py')}
    for folder in dict.fromkeys(folder.resolve() for folder in _CONFIG_FOLDERS):
        for file in folder.rglob('*.py'):
            near = Path.cwd() in file.parents
            candidates.add(str(file.relative_to(Path.cwd()) if near else file))
    by_name = {Path(file).name: file for file in sorted(candidates)}
    return nearest(path.with_suffix('.py').name, by_name) or f' Looked for {path.absolute()}.'
