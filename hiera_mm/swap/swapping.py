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
from ..engine.config import as_list, check_scope
from ..errors import CheckpointError, ConfigError
from ..trial.configs import Keys, copied, loads_masks, owners, resolve
from ..weights.catalog import entry_of
from . import settings
from .ways import call_directly, swap_model, type_name
from .write import base_module, base_path, check_out, short_config

UNREAD = 'Nothing reads some of the outputs of the backbone, whose norms then get no gradient.'


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
    """

    original: Original
    config: dict[str, Any]
    arch: str
    remarks: dict[Keys, str]
    dropped: tuple[str, ...]
    prediction_error: str | None

    def text(self, out: Path) -> str:
        """Return the short config that makes this one of the original.

        Args:
            out: Where it is going to be, as it names the original from there.
        """
        old, file, lazy = self.original.config, self.original.file, self.original.lazy
        kinds = [type_name(owner['backbone'].get('type')) for _, owner in owners(old['model'])]
        head = (
            f'{file.stem} with Hiera ({self.arch}) in the place of '
            f'{" and ".join(dict.fromkeys(kinds))}, written by '
            f'tools/swap_backbone.py of hiera_mm {__version__}.'
        )
        if self.dropped:
            head += f'\nLeft out, as they are of the old network: {", ".join(self.dropped)}.'
        base = base_module(file, out) if lazy else base_path(file, out)
        return short_config(base, old, self.config, self.remarks, head, lazy=lazy)

    def write(self, out: str | os.PathLike, *, force: bool = False) -> Path:
        """Write the short config; it is read again before it gets its name.

        Args:
            out: The file.
            force: Whether to replace what is there.

        Returns:
            The file.

        Raises:
            ConfigError: If there is such a file already, or it cannot be written.
        """
        out = check_out(out, force=force)
        # Beside the final place, for the relative paths inside.
        draft = out.with_name(f'draft_{os.getpid()}_{out.name}')
        try:
            draft.write_text(self.text(out), encoding='utf-8')
            if plain(Config.fromfile(draft)) != self.config:
                raise RuntimeError(f'the config written for {self.original.file} reads otherwise')
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
) -> Config:
    """Put Hiera into a config of mmdet or mmseg, and make sure that it works.

    The new model is built, and computes losses, gradients and predictions of a made-up batch.

    Args:
        config: A config file, or the name of one that an installed toolbox ships, such as
            ``mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco``.
        arch: The Hiera, as for :class:`~hiera_mm.backbone.Hiera`.
        weights: Weights for it, as for ``init_cfg`` of the backbone.
        keep_schedule: Leave optimiser, learning rates and schedule as they are.

    Returns:
        The complete new config. :func:`prepare` gives what writes a short one.

    Raises:
        ConfigError: If there is no such config, or Hiera cannot be put into it; with the reason.
        CheckpointError: If the weights are not there, or are those of another Hiera.
    """
    swapped = prepare(read(config), arch, weights=weights, keep_schedule=keep_schedule)
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
    check_scope(complete, file)
    return Original(file, complete, complete['default_scope'], lazy)


def prepare(
    original: Original,
    arch: str,
    *,
    weights: str | None = None,
    keep_schedule: bool = False,
    call: Callable[..., Any] = call_directly,
) -> Swapped:
    """Put Hiera into a config that was read.

    Args:
        original: The config.
        arch: As for :func:`swap`.
        weights: As for :func:`swap`.
        keep_schedule: As for :func:`swap`.
        call: As for :func:`.ways.swap_model`.

    Raises:
        ConfigError: As :func:`swap`.
        CheckpointError: As :func:`swap`.
    """
    check_arch(arch, weights)
    remarks: dict[Keys, str] = {}
    new = copied(original.config)
    options: dict[str, Any] = dict(arch=arch)
    if not keep_schedule:
        options['drop_path_rate'] = settings.drop_path_of(arch)
    if weights is not None:
        options['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    dropped = settings.drop_old_weights(new)
    settings.normalise_as_hiera(new, original.scope, remarks)
    model = dict(new['model'])
    if 'data_preprocessor' in new:  # as mmengine's runner does
        model.setdefault('data_preprocessor', new['data_preprocessor'])
    masks = loads_masks(original.config)
    try:
        swapped = swap_model(model, original.scope, options, masks=masks, call=call)
    except ConfigError as error:
        raise ConfigError(f'{original.file.stem} cannot take Hiera: {error}') from error
    if 'data_preprocessor' not in new['model']:
        swapped.model.pop('data_preprocessor', None)
    new['model'] = swapped.model
    remarks |= {('model', *path): remark for path, remark in swapped.remarks.items()}
    if swapped.unread:
        new['find_unused_parameters'] = True
        remarks[('find_unused_parameters',)] = UNREAD
    if not keep_schedule:
        settings.train_as_transformer(
            new, original.scope, arch, has_weights=weights is not None, remarks=remarks
        )
    imports = new.pop('custom_imports', None) or {}
    # Ours comes first, since it supplies operators that others may import.
    modules = [name for name in as_list(imports.get('imports')) if name != 'hiera_mm']
    custom = {'imports': [], 'allow_failed_imports': False, **imports}
    custom['imports'] = ['hiera_mm', *modules]
    # In the order in which one reads.
    new = {'custom_imports': custom, 'model': new.pop('model'), **new}
    return Swapped(original, new, arch, remarks, dropped, swapped.prediction_error)


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
    elif entry is not None and entry.arch != arch:
        raise CheckpointError(f'{source} holds a Hiera of arch {entry.arch}, and {arch} is wanted.')


def plain(config: Config) -> dict[str, Any]:
    """Return a config as plain dicts, lists and tuples, types of lazy ones as their names."""
    return copied(config.to_dict())
