"""What follows outside the network: pixels as Hiera knows them, and a transformer's schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..engine.config import as_list, type_name, walk
from ..network.trunk import UNIT_PIXELS
from ..network.variants import name_of_weights
from ..trial.configs import RGB, SEPARATE, Keys, image_channels, owners

# What every published Hiera was trained on.
MEAN = [123.675, 116.28, 103.53]
STD = [58.395, 57.12, 57.375]

# What the toolboxes train their own Swin with: learning rate at a batch of 16, weight decay, and
# iterations and first factor of the warm-up.
_ADAMW = {'mmdet': (1e-4, 0.05), 'mmseg': (6e-5, 0.01)}
_WARM_UP = {'mmdet': (1000, 0.001), 'mmseg': (1500, 1e-6)}
_BATCH = 16
FAR_ABOVE = 2
_ADAPTIVE = ('Adam', 'Lion', 'Lamb')  # in the names of optimisers whose rates fit a transformer
_WARMING = ('LinearLR', 'ConstantLR', 'Warmup')

# By size, SAM 2's as the release's, as in configs/. Drop path: Table 15 of the paper for base to
# large, else Table 14b. Layer-wise decay, of segmenters alone: Table 14b.
_DROP_PATH = dict(tiny=0.1, small=0.1, base=0.2, base_plus=0.2, large=0.4, huge=0.3)
_SHORT_DROP_PATH = dict(large=0.2, huge=0.2)  # others 0.1
_SHORT = 50  # epochs
_DECAY_RATE = dict(tiny=0.65, small=0.65, base=0.7, base_plus=0.7, large=0.85, huge=0.85)

_OTHER_CONSTRUCTORS_OPTIONS = (
    'num_layers', 'decay_rate', 'decay_type', 'layer_decay_rate', 'force_default_settings',
)  # fmt: skip


def drop_path_of(arch: str, scope: str, cfg: Mapping[str, Any]) -> float:
    """Return the drop path rate that suits an architecture and the length of a training.

    One that is counted in iterations is taken for a long one.
    """
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs', _SHORT)
    epochs *= ((cfg.get('train_dataloader') or {}).get('dataset') or {}).get('times', 1)
    rates = _SHORT_DROP_PATH if scope == 'mmdet' and epochs < _SHORT else _DROP_PATH
    return rates.get(_size(arch), 0.1)


def drop_old_weights(cfg: dict[str, Any]) -> tuple[str, ...]:
    """Remove from a config, in place, what would load weights of a network with another backbone.

    Returns:
        The files that were named; those of the backbone itself too, which goes with them.
    """
    named: dict[str, None] = {}
    if cfg.get('load_from'):
        named[str(cfg['load_from'])] = None
        cfg['load_from'] = None
    for node in (cfg['model'], *(owner for _, owner in owners(cfg['model']))):
        for part in (node, node.get('backbone') or {}):
            if isinstance(part.get('pretrained'), str):
                named[part['pretrained']] = None
            for init in walk(part.get('init_cfg')):
                if init.get('checkpoint'):
                    named[str(init['checkpoint'])] = None
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None
        if 'Pretrained' in str(node.get('init_cfg')):
            node['init_cfg'] = None
    return tuple(named)


def normalise_as_hiera(cfg: dict[str, Any], scope: str, remarks: dict[Keys, str]) -> None:
    """Change how images are normalised, in place, to what Hiera was trained on.

    Images of other channels than red, green and blue are left as they are.
    """
    if image_channels(cfg['model']) != RGB:
        return
    in_rgb = any(
        'LoadImage' in type_name(node) and node.get('channel_order') == 'rgb'
        for node in walk(cfg.get('train_pipeline') or cfg.get('train_dataloader'))
    )
    found = list(_preprocessors(cfg['model'], ('model',)))
    if not found and isinstance(cfg.get('data_preprocessor'), dict):
        found = [(('data_preprocessor',), cfg['data_preprocessor'])]
    if not found:
        kind = 'DetDataPreprocessor' if scope == 'mmdet' else 'SegDataPreProcessor'
        cfg['model']['data_preprocessor'] = dict(type=kind)
        found = [(('model', 'data_preprocessor'), cfg['model']['data_preprocessor'])]
    for path, node in found:
        new = dict(mean=MEAN, std=STD, bgr_to_rgb=not in_rgb)
        if node.get('rgb_to_bgr'):
            new['rgb_to_bgr'] = False
        if 'SegDataPreProcessor' not in type_name(node):
            divisor = node.get('pad_size_divisor') or 1
            if divisor % UNIT_PIXELS:
                new['pad_size_divisor'] = UNIT_PIXELS
        changed = [key for key, value in new.items() if _differs(node.get(key), value)]
        if changed == ['pad_size_divisor']:
            remarks[path] = f'A mask unit has {UNIT_PIXELS} pixels.'
        elif changed:
            remarks[path] = 'Hiera was trained on RGB images, normalised so.'
        node |= {key: new[key] for key in changed}


def train_as_transformer(
    cfg: dict[str, Any],
    scope: str,
    arch: str,
    *,
    name: str,
    has_weights: bool,
    remarks: dict[Keys, str],
) -> None:
    """Change optimiser, learning rates and decay, in place, to what suits a transformer.

    An optimiser of Adam's kind stays with its settings, since its config was made for a model of
    that kind, unless its rate is far above what the toolbox trains its own Swin with. Any other
    becomes the AdamW of these. Rates are in proportion to the batch; a warm-up goes before the
    schedule if there is none, and rates at which schedules end keep their share of the first one.
    A backbone that starts at random is not slowed.

    Args:
        cfg: The config; one without an optimiser stays as it is.
        scope: The toolbox's scope.
        arch: The Hiera.
        name: The name of the config, which may tell the number of GPUs.
        has_weights: Whether Hiera starts from weights.
        remarks: Why something is as it is, by path; extended.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or not isinstance(wrapper.get('optimizer'), dict):
        return
    optimizer = wrapper['optimizer']
    adaptive = any(name in type_name(optimizer) for name in _ADAPTIVE)
    rate, weight_decay = _ADAMW[scope]
    batch, counted = _batch(cfg, wrapper, name)
    far_above = FAR_ABOVE * rate * max(batch, _BATCH) / _BATCH
    rate = float(f'{rate * batch / _BATCH:.6g}')
    old_rate = optimizer.get('lr')
    if not adaptive:
        wrapper['optimizer'] = dict(
            type='AdamW', lr=rate, betas=(0.9, 0.999), weight_decay=weight_decay
        )
        remarks[('optim_wrapper', 'optimizer')] = (
            f"Transformers are trained with AdamW: rate and decay of {scope}'s own Swin configs, "
            f'for a batch of {batch}{counted}.'
        )
    elif old_rate is not None and old_rate > far_above:
        optimizer['lr'] = rate
        remarks[('optim_wrapper', 'optimizer')] = (
            f"The rate of {scope}'s own Swin configs, for a batch of {batch}{counted}."
        )
    if wrapper['optimizer'].get('lr') != old_rate:
        if counted:  # mmengine's scaling knows nothing of accumulative_counts
            base = batch // wrapper.get('accumulative_counts', 1)
            cfg['auto_scale_lr'] = dict(enable=False, base_batch_size=base)
        _follow_rate(cfg, scope, rate / old_rate if old_rate else 1.0, remarks)
    options = {
        key: value
        for key, value in (wrapper.get('paramwise_cfg') or {}).items()
        if key not in _OTHER_CONSTRUCTORS_OPTIONS
    }
    custom = options.get('custom_keys') or {}
    slowed = any('backbone' in key for key in custom)
    remark = 'No weight decay on biases, norms and position embeddings of the backbone'
    if not has_weights:
        remark += '. It starts at random: its learning rate is not lowered.'
        for key, values in custom.items():
            if 'backbone' in key and values.get('lr_mult', 1) < 1:
                del values['lr_mult']
    elif slowed:
        remark += '. Its learning rate is lowered already: no layer-wise decay.'
    elif scope == 'mmseg':
        options = dict(decay_rate=_DECAY_RATE.get(_size(arch), 0.7), **options)
        remark += '; layer-wise decay of its learning rate as in Table 14b of the paper.'
    else:
        remark += '; no layer-wise decay, as the paper found best for detection.'
    wrapper['constructor'] = 'HieraOptimWrapperConstructor'
    remarks[('optim_wrapper', 'constructor')] = remark
    if options or wrapper.get('paramwise_cfg'):
        wrapper['paramwise_cfg'] = options


def _batch(cfg: dict[str, Any], wrapper: dict[str, Any], name: str) -> tuple[int, str]:
    """Return the samples of one step of the optimiser, and how they were counted.

    By the toolboxes' scheme ``..._4xb2-...`` is a config for 4 GPUs with 2 samples each.
    """
    batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if batch:
        return batch, ''
    samples = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not samples:
        return _BATCH, ''
    named = re.search(rf'_(\d+)xb{samples}(?!\d)', name)
    gpus = int(named[1]) if named else 1
    steps = wrapper.get('accumulative_counts', 1)
    counted = f'{samples} on each of {gpus} GPUs' if named else f'{samples} on one GPU'
    if steps > 1:
        counted += f', {steps} times'
    return samples * gpus * steps, f' ({counted}; for others use --auto-scale-lr)'


def _follow_rate(cfg: dict[str, Any], scope: str, factor: float, remarks: dict[Keys, str]) -> None:
    """Let a schedule follow a learning rate that was multiplied by a factor."""
    schedule = as_list(cfg.get('param_scheduler'))
    changes = []
    if schedule and not any(name in type_name(schedule[0]) for name in _WARMING):
        steps, start = _WARM_UP[scope]
        warm_up = dict(type='LinearLR', start_factor=start, by_epoch=False, begin=0, end=steps)
        schedule.insert(0, warm_up)
        changes.append('A transformer needs a warm-up.')
    for item in schedule:
        if item.get('eta_min'):
            item['eta_min'] = float(f'{item["eta_min"] * factor:.3g}')
            changes.append('The rate ends at the same share of the first one.')
    if changes:
        cfg['param_scheduler'] = schedule
        remarks[('param_scheduler',)] = ' '.join(dict.fromkeys(changes))


def _preprocessors(node: Any, path: Keys) -> list[tuple[Keys, dict[str, Any]]]:
    """Return the data preprocessors in a model that do the work, not those around them."""
    found = []
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SEPARATE or not isinstance(value, dict):
                continue
            inner = _preprocessors(value, (*path, key))
            found += inner
            if key == 'data_preprocessor' and not inner:
                found.append(((*path, key), value))
    return found


def _differs(old: Any, new: Any) -> bool:
    return list(old) != new if isinstance(old, list | tuple) else old != new


def _size(arch: str) -> str:
    return re.sub('^(sam2|hieradet)_|_abswin$', '', name_of_weights(arch))
