"""A config's model, built without weights, and so that it processes all that it may."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..engine.config import load_config, walk
from ..engine.processes import replace_sync_norms
from ..errors import ConfigError
from ..swap.find import TOOLBOXES, owners, resolve
from ..swap.nested import copied
from ..swap.trial import import_models, without_weights


def read(config: str | Path, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config of mmdet or mmseg.

    Args:
        config: A file, or the name of a config that a toolbox ships, such as
            ``mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco``.
        cfg_options: Values to override, by dotted key.

    Raises:
        ConfigError: If it cannot be read, has no model, or belongs to another toolbox.
    """
    path = Path(config)
    if not path.is_file() and path.parts and path.parts[0] in TOOLBOXES:
        path = resolve(config)
    cfg = load_config(path, cfg_options=cfg_options)
    if cfg.get('default_scope') not in TOOLBOXES:
        raise ConfigError(
            f'Config {path} has default_scope={cfg.get("default_scope")!r}. The cost of models of '
            f'{" and ".join(TOOLBOXES)} can be measured: one of them has to stand there.'
        )
    for _, owner in owners(cfg.model):
        if owner['backbone'].get('arch') == 'auto':
            raise ConfigError(
                f"Config {path} has arch='auto', which takes the architecture from weights, and "
                'weights are not read here. Name it: --cfg-options model.backbone.arch=base'
            )
    return cfg


def build(cfg: Config) -> nn.Module:
    """Build the model of a config for counting: random weights, in evaluation mode.

    Weights are not read. Of random weights no detection would pass a score threshold, so
    thresholds become 0: what follows them then processes as much as the test settings allow.

    Args:
        cfg: A config that `read` returned.
    """
    scope = cfg.default_scope
    import_models(scope)
    model = without_weights(ConfigDict(copied(cfg.model)))
    replace_sync_norms(model)
    for node in walk(model):
        if isinstance(node.get('score_thr'), int | float):
            node['score_thr'] = 0.0
        # Both of these would change the size of the image.
        node.pop('batch_augments', None)
        if 'SegDataPreProcessor' in str(node.get('type')):
            node.pop('size', None)
            node['size_divisor'] = 1
    torch.manual_seed(0)
    with in_scope(scope):
        network = MODELS.build(model)
        with suppress(Exception):  # some can only start from their file
            network.init_weights()
    return network.eval()


@contextmanager
def in_scope(scope: str) -> Iterator[None]:
    """Build or run a toolbox's model, and keep back what the toolbox says about it.

    Args:
        scope: ``'mmdet'`` or ``'mmseg'``.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            DefaultScope.overwrite_default_scope(scope),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
