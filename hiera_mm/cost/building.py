"""A config's model, built without weights, and so that it processes all that it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ..engine.config import load_config, walk
from ..errors import ConfigError
from ..swap import trial
from ..swap.find import TOOLBOXES, owners, resolve
from ..swap.nested import copied


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
    model = copied(cfg.model)
    for node in walk(model):
        if isinstance(node.get('score_thr'), int | float):
            node['score_thr'] = 0.0
    return trial.build(model, cfg.default_scope, max_objects=None).eval()
