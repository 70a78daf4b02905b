"""One config in, one config with Hiera out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from .. import __version__, weights
from ..backbone import Hiera
from ..engine.config import as_list, check_scope, load_config, type_name, walk
from ..errors import CheckpointError, ConfigError
from ..trial.configs import Keys, copied, loads_masks, owners, resolve, with_absolute_files
from ..trial.models import build_start
from ..weights.catalog import entry_of
from ..weights.sources import names_for, url_of
from . import settings
from .ways import UNTRIED_HELP, call_directly, lost_settings, swap_model
from .write import base_module, base_path, check_out, short_config

UNREAD = 'Nothing reads some of the outputs of the backbone, whose norms then get no gradient.'
UNTRIED = 'It was not tried whether all outputs of the backbone are read.'


@dataclass(frozen=True)
class Original:
    """A config as it was.

    Attributes:
        file: Where it is.
        config: The complete config, as plain dicts.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        lazy: Whether it is in the pure-Python style.
    """

    file: Path
    config: dict[str, Any]
    scope: str
    lazy: bool


@dataclass(frozen=True)
class Swapped:
    """A config with Hiera inside, tried out.

    Attributes:
        original: The config as it was.
        config: The complete new one, as plain dicts.
        arch: The Hiera in it.
        remarks: Why something is as it is, by path in the config.
        dropped: Weights that the original named, for its own network.
        prediction_error: What the model raises in testing, as the original does; mostly None.
        tried: Whether it was tried; if not, neither is what is written.
    """

    original: Original
    config: dict[str, Any]
    arch: str
    remarks: dict[Keys, str]
    dropped: tuple[str, ...]
    prediction_error: str | None
    tried: bool = True

    def text(self, out: Path, *, full: bool = False) -> str:
        """Return the text of the config: a short one that makes it of the original, or all of it.

        Args:
            out: Where it is going to be, as it names the original from there.
            full: Whether it is to stand alone.
        """
        file, lazy = self.original.file, self.original.lazy
        pairs = [
            (old['backbone'], new['backbone'])
            for (_, old), (_, new) in zip(
                owners(self.original.config['model']), owners(self.config['model']), strict=True
            )
        ]
        kinds = [type_name(old) for old, _ in pairs]
        head = (
            f'{file.stem} with Hiera ({self.arch}) in the place of '
            f'{" and ".join(dict.fromkeys(kinds))}, written by '
            f'tools/swap_backbone.py of hiera_mm {__version__}'
            f'{"." if self.tried else ", not tried out."}'
        )
        if self.dropped:
            head += f'\nLeft out, as they are of the old network: {", ".join(self.dropped)}.'
        lost = dict.fromkeys(name for pair in pairs for name in lost_settings(*pair))
        if lost:
            head += f'\nIts settings that Hiera does without: {", ".join(lost)}.'
        if full:
            return short_config(None, {}, alone(self.config), self.remarks, head)
        base = base_module(file, out) if lazy else base_path(file, out)
        return short_config(base, self.original.config, self.config, self.remarks, head, lazy=lazy)

    def write(self, out: str | os.PathLike, *, force: bool = False, full: bool = False) -> Path:
        """Write the config; it is read, and model and optimiser built, before it gets its name.

        Args:
            out: The file.
            force: Whether to replace what is there.
            full: Whether the file is to stand alone, without the original.

        Returns:
            The file.

        Raises:
            ConfigError: If there is such a file already, it cannot be written, or a training could
                not start from it.
        """
        out = check_out(out, force=force)
        # Beside the final place, for the relative paths inside.
        draft = out.with_name(f'draft_{os.getpid()}_{out.name}')
        try:
            draft.write_text(self.text(out, full=full), encoding='utf-8')
            expected = alone(self.config) if full else self.config
            if plain(Config.fromfile(draft)) != expected:
                raise RuntimeError(f'the config written for {self.original.file} reads otherwise')
            if self.tried:
                try:
                    build_start(load_config(draft))
                except Exception as error:  # whatever a toolbox's model may raise
                    raise ConfigError(
                        f'No training can start from {self.original.file.stem} with Hiera here: '
                        f'{type(error).__name__}: {error}\n{UNTRIED_HELP}'
                    ) from error
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
        return out


def swap(
    config: str | os.PathLike,
    arch: str = 'base',
    *,
    weights: str | None = None,
    keep_schedule: bool = False,
    trial: bool = True,
) -> Config:
    """Put Hiera into a config of mmdet or mmseg, and make sure that it works.

    The new model is built, and computes losses, gradients and predictions of a made-up batch.

    Args:
        config: A config file, or the name of one that an installed toolbox ships, such as
            ``mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco``.
        arch: The Hiera, as for :class:`~hiera_mm.backbone.Hiera`.
        weights: Weights for it, as for ``init_cfg`` of the backbone.
        keep_schedule: Leave optimiser, learning rates and schedule as they are.
        trial: Whether to try it.

    Returns:
        The complete new config. :func:`prepare` gives what writes a short one.

    Raises:
        ConfigError: If there is no such config, or Hiera cannot be put into it; with the reason.
        CheckpointError: If the weights are not there, or are those of another Hiera.
    """
    swapped = prepare(read(config), arch, weights=weights, keep_schedule=keep_schedule, trial=trial)
    return Config(swapped.config, filename=str(swapped.original.file))


def read(config: str | os.PathLike) -> Original:
    """Read a config of mmdet or mmseg, in either style.

    Args:
        config: As for :func:`swap`.

    Raises:
        ConfigError: If there is none, it cannot be read, or has no model of these toolboxes.
    """
    file = resolve(config)
    try:
        lazy = Config._is_lazy_import(str(file))  # mmengine has no public way to tell
        complete = plain(Config.fromfile(file))
    except Exception as error:  # a config is a program: it may raise anything
        raise ConfigError(f'{file} cannot be read: {type(error).__name__}: {error}') from error
    if not isinstance(complete.get('model'), dict):
        raise ConfigError(f'{file} has no model.')
    return Original(file, complete, check_scope(complete, file), lazy)


def prepare(
    original: Original,
    arch: str,
    *,
    weights: str | None = None,
    keep_schedule: bool = False,
    trial: bool = True,
    call: Callable[..., Any] = call_directly,
) -> Swapped:
    """Put Hiera into a config that was read.

    Args:
        original: The config.
        arch: As for :func:`swap`.
        weights: As for :func:`swap`.
        keep_schedule: As for :func:`swap`.
        trial: As for :func:`swap`.
        call: As for :func:`.ways.swap_model`.

    Raises:
        ConfigError: As :func:`swap`.
        CheckpointError: As :func:`swap`.
    """
    check_arch(arch, weights)
    remarks: dict[Keys, str] = {}
    new = with_absolute_files(original.config, original.file)
    new['default_scope'] = original.scope  # of a pure-Python config, which has classes without
    options: dict[str, Any] = dict(arch=arch)
    if not keep_schedule:
        options['drop_path_rate'] = settings.drop_path_of(arch, original.scope, new)
    if weights is not None:
        options['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    dropped = settings.drop_old_weights(new)
    settings.normalise_as_hiera(new, original.scope, remarks)
    model = dict(new['model'])
    if 'data_preprocessor' in new:  # as mmengine's runner does
        model.setdefault('data_preprocessor', new['data_preprocessor'])
    masks = loads_masks(original.config)
    try:
        swapped = swap_model(model, original.scope, options, masks=masks, trial=trial, call=call)
    except ConfigError as error:
        raise ConfigError(f'{original.file.stem} cannot take Hiera: {error}') from error
    if 'data_preprocessor' not in new['model']:
        swapped.model.pop('data_preprocessor', None)
    new['model'] = swapped.model
    remarks |= {('model', *path): remark for path, remark in swapped.remarks.items()}
    if swapped.unread:
        new['find_unused_parameters'] = True
        remarks[('find_unused_parameters',)] = UNREAD if trial else UNTRIED
    if not keep_schedule:
        settings.train_as_transformer(
            new,
            original.scope,
            arch,
            name=original.file.stem,
            has_weights=weights is not None,
            remarks=remarks,
        )
    imports = new.pop('custom_imports', None) or {}
    # Ours comes first, since it supplies operators that others may import.
    modules = [name for name in as_list(imports.get('imports')) if name != 'hiera_mm']
    custom = {'imports': [], 'allow_failed_imports': False, **imports}
    custom['imports'] = ['hiera_mm', *modules]
    # In the order in which one reads.
    new = {'custom_imports': custom, 'model': new.pop('model'), **new}
    return Swapped(original, new, arch, remarks, dropped, swapped.prediction_error, trial)


def check_arch(arch: str, source: str | None) -> None:
    """Check that there is such a Hiera, and that weights are for it; download nothing.

    Raises:
        ConfigError: If there is none.
        CheckpointError: If the weights are not there, or are those of another Hiera.
    """
    if arch == 'auto':
        raise ConfigError("arch must be the name of a Hiera; 'auto' needs weights at every start")
    with torch.device('meta'):
        network = Hiera(arch)
    if source is None:
        return
    entry = entry_of(source)
    if entry is None and '://' not in source:
        weights.plan(network, source)
    elif entry is None:
        url_of(source, arch)
    elif not entry.fits(arch):
        raise CheckpointError(
            f'{source} holds a Hiera of arch {entry.arch}, and {arch} is wanted{names_for(arch)}.'
        )


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the config of a teacher in the place of the file that holds it."""
    config = copied(config)
    for node in walk(config):
        teacher = node.get('teacher_config')
        if isinstance(teacher, str) and Path(teacher).is_file():
            node['teacher_config'] = dict(model=plain(Config.fromfile(teacher))['model'])
    return config


def plain(config: Config) -> dict[str, Any]:
    """Return a config as plain dicts, lists and tuples, types of lazy ones as their names."""
    return copied(config.to_dict())
