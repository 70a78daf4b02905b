"""Does a model work? One made-up batch through losses, gradients and prediction."""

from __future__ import annotations

import importlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..backbone import Hiera
from ..engine.config import walk
from ..engine.launch import replace_sync_norms
from ..weights.families import OUTPUTS
from .find import TOOLBOXES, configs_root
from .nested import copied
from .samples import Kind, make_batch

SEED = 0
MANY_CLASSES = 1000
MAX_OBJECTS = 20  # that are predicted in an image, of so many classes


@dataclass(frozen=True)
class Trial:
    """What one batch showed of a model.

    Attributes:
        losses: The losses by name.
        unread: Outputs of the Hiera inside that no loss depends on, by their place.
        prediction_error: What the model raised in place of a prediction; None if it made one.
    """

    losses: dict[str, float]
    unread: tuple[int, ...] = ()
    prediction_error: str | None = None


def build(
    model: Mapping[str, Any], scope: str, *, max_objects: int | None = MAX_OBJECTS
) -> nn.Module:
    """Build a model as a CPU can run it on images of any size, without the weights that it names.

    Args:
        model: Its config.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        max_objects: Of `MANY_CLASSES` or more, how many objects are predicted in an image at most;
            None for as many as the config says.
    """
    import_models(scope)
    cfg = without_weights(ConfigDict(copied(model)))
    replace_sync_norms(cfg)
    _find_teacher(cfg, scope)
    nodes = list(walk(cfg))
    many_classes = any(_number(node.get('num_classes')) >= MANY_CLASSES for node in nodes)
    for node in nodes:
        if many_classes and max_objects is not None and 'max_per_img' in node:
            # Masks of hundreds of objects of so many classes would take all memory.
            node['max_per_img'] = min(node['max_per_img'], max_objects)
        # Both of these would change the size of the image.
        node.pop('batch_augments', None)
        if 'SegDataPreProcessor' in str(node.get('type')):
            node.pop('size', None)
            node['size_divisor'] = 1
    torch.manual_seed(SEED)
    with in_scope(scope):
        network = MODELS.build(cfg)
        with suppress(Exception):  # some can only start from their file
            network.init_weights()
    return network


def run(model: nn.Module, scope: str, kind: Kind, *, gradients: bool = True) -> Trial:
    """Compute losses, gradients and predictions of one batch.

    Args:
        model: The model.
        scope: The toolbox's scope.
        kind: What the images are like.
        gradients: Whether to compute gradients, and to check those of the Hiera inside.

    Raises:
        ArithmeticError: If a loss, or a gradient in a Hiera, is not finite.
        RuntimeError: If parameters of a Hiera got no gradient though its outputs are read.
        Exception: Whatever the model raises in training.
    """
    unread: tuple[int, ...] = ()
    with in_scope(scope):
        with _outputs_of_hiera(model) as outputs, torch.set_grad_enabled(gradients):
            total, losses = _loss(model, scope, kind)
        if gradients:
            total.backward()
            unread = _unread(outputs)
            _check_gradients(model, all_read=not unread)
        return Trial(losses, unread, _prediction_error(model, scope, kind))


def _loss(model: nn.Module, scope: str, kind: Kind) -> tuple[Tensor, dict[str, float]]:
    torch.manual_seed(SEED)
    hub = MessageHub.get_current_instance()
    for clock in ('iter', 'epoch'):  # some losses change with them
        hub.update_info(clock, hub.get_info(clock, 0))
    if hasattr(model, 'set_epoch'):
        model.set_epoch(0)  # as a hook of mmdet does
    model.train()
    data = model.data_preprocessor(make_batch(model, scope, kind, training=True), training=True)
    total, parsed = model.parse_losses(model(**data, mode='loss'))
    losses = {name: float(value) for name, value in parsed.items()}
    if not all(math.isfinite(value) for value in losses.values()):
        raise ArithmeticError(f'losses are not finite: {losses}')
    return total, losses


def _prediction_error(model: nn.Module, scope: str, kind: Kind) -> str | None:
    model.eval()
    batch = make_batch(model, scope, kind, training=False)
    try:
        with torch.no_grad():
            model(**model.data_preprocessor(batch, training=False), mode='predict')
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return None


def import_models(scope: str) -> None:
    """Register what the models of a toolbox are made of.

    Raises:
        ImportError: If the toolbox is not installed.
    """
    importlib.import_module(f'{scope}.models')


def without_weights(node: Any) -> Any:
    """Remove from a model's config, in place, what would load weights from somewhere."""
    if isinstance(node, dict):
        for key in list(node):
            value = node[key]
            if (
                (key == 'pretrained' and isinstance(value, str))
                or (key == 'init_cfg' and 'Pretrained' in str(value))
                or key == 'teacher_ckpt'
            ):
                node[key] = None
            else:
                without_weights(value)
    elif isinstance(node, list | tuple):
        for item in node:
            without_weights(item)
    return node


def _find_teacher(cfg: ConfigDict, scope: str) -> None:
    """Let a teacher's config, named from the toolbox's repository, be found wherever we are."""
    teacher = cfg.get('teacher_config')
    if isinstance(teacher, str) and scope in TOOLBOXES and not Path(teacher).exists():
        cfg.teacher_config = str(configs_root(scope).parent / teacher)


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


@contextmanager
def in_scope(scope: str) -> Iterator[None]:
    """Build or run a toolbox's model, and keep back what the toolbox says about it.

    mmengine tells of every weight that it sets.

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


@contextmanager
def _outputs_of_hiera(model: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """Collect the outputs of every Hiera in a model; those in training keep their gradients."""
    collected: list[tuple[Tensor, ...]] = []

    def keep(module: nn.Module, inputs: Any, features: tuple[Tensor, ...]) -> None:
        if all(feature.requires_grad for feature in features):
            for feature in features:
                feature.retain_grad()
            collected.append(features)

    handles = [
        module.register_forward_hook(keep)
        for module in model.modules()
        if isinstance(module, Hiera)
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _unread(outputs: list[tuple[Tensor, ...]]) -> tuple[int, ...]:
    places = range(len(outputs[0])) if outputs else ()
    return tuple(i for i in places if all(features[i].grad is None for features in outputs))


def _check_gradients(model: nn.Module, *, all_read: bool) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, Hiera):
            continue
        for inner, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                if all_read or not inner.startswith(OUTPUTS):
                    raise RuntimeError(f'no gradient reaches {name}.{inner}')
            elif not parameter.grad.isfinite().all():
                raise ArithmeticError(f'the gradient of {name}.{inner} is not finite')
