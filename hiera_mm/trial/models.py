"""A config's model, built without its weights, and tried out on one made-up batch."""

from __future__ import annotations

import importlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..backbone import Hiera
from ..engine.config import type_name, walk
from ..engine.launch import replace_sync_norms
from ..weights.families import OUTPUTS
from .batches import make_batch
from .configs import copied, image_channels

SEED = 0
SIDES = (128, 320, 512)  # pixels; heads that shrink maps many times over need larger images
MANY_CLASSES = 1000
MAX_OBJECTS = 20  # that are predicted in an image, of so many classes


def build(model: Mapping[str, Any], scope: str, *, max_objects: int | None = None) -> nn.Module:
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
    nodes = list(walk(cfg))
    classes = [node.get('num_classes') for node in nodes]
    many_classes = any(isinstance(number, int) and number >= MANY_CLASSES for number in classes)
    for node in nodes:
        if many_classes and max_objects is not None and 'max_per_img' in node:
            # Masks of hundreds of objects of so many classes would take all memory.
            node['max_per_img'] = min(node['max_per_img'], max_objects)
        # Both of these would change the size of the image.
        node.pop('batch_augments', None)
        if 'SegDataPreProcessor' in type_name(node):
            node.pop('size', None)
            node['size_divisor'] = 1
    torch.manual_seed(SEED)
    with in_scope(scope):
        network = MODELS.build(cfg)
        with suppress(Exception):  # some can only start from their file
            network.init_weights()
    return network


def import_models(scope: str) -> None:
    """Register what the models of a toolbox are made of.

    Raises:
        ImportError: If the toolbox is not installed.
    """
    importlib.import_module(f'{scope}.models')


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


def without_weights(node: Any) -> Any:
    """Remove from a model's config, in place, what would load weights from somewhere."""
    for part in walk(node):
        for key, value in part.items():
            if (
                (key == 'pretrained' and isinstance(value, str))
                or (key == 'init_cfg' and 'Pretrained' in str(value))
                or key == 'teacher_ckpt'
            ):
                part[key] = None
    return node


def build_start(cfg: Config) -> None:
    """Build what a training of a config starts with, weights and data apart.

    Raises:
        Exception: Whatever model or optimiser raise.
    """
    network = build(cfg.model, cfg.default_scope)
    # Not the wrapper itself: that of mixed precision needs a GPU.
    names = ('optimizer', 'constructor', 'paramwise_cfg')
    wrapper = {
        name: value for name, value in (cfg.get('optim_wrapper') or {}).items() if name in names
    }
    if 'optimizer' in wrapper:
        with in_scope(cfg.default_scope):
            build_optim_wrapper(network, wrapper)


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


def try_out(
    model: Mapping[str, Any], scope: str, *, masks: bool = True, gradients: bool = True
) -> Trial:
    """Build a model, and compute losses, gradients and predictions of one batch.

    Args:
        model: Its config.
        scope: The toolbox's scope, ``'mmdet'`` or ``'mmseg'``.
        masks: Whether the objects have masks; some detectors stumble over masks.
        gradients: Whether to compute gradients, and to check those of the Hiera inside.

    Raises:
        ArithmeticError: If a loss, or a gradient in a Hiera, is not finite.
        RuntimeError: If parameters of a Hiera got no gradient though its outputs are read.
        Exception: Whatever the model raises in training.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(model, scope, max_objects=MAX_OBJECTS)
        channels = image_channels(model)
        first: Exception | None = None
        for side in SIDES:
            make = partial(make_batch, network, scope, (side, side), channels=channels, masks=masks)
            try:
                with in_scope(scope):
                    return _run(network, make, gradients=gradients)
            except Exception as error:  # whatever a toolbox's model may raise
                first = first or error
        raise first from None


def _run(model: nn.Module, make: Callable[..., dict[str, Any]], *, gradients: bool) -> Trial:
    unread: tuple[int, ...] = ()
    with _outputs_of_hiera(model) as outputs, torch.set_grad_enabled(gradients):
        total, losses = _loss(model, make(training=True))
    if gradients:
        total.backward()
        places = range(len(outputs[0])) if outputs else ()
        unread = tuple(i for i in places if all(maps[i].grad is None for maps in outputs))
        _check_gradients(model, all_read=not unread)
    return Trial(losses, unread, _prediction_error(model, make(training=False)))


def _loss(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
    torch.manual_seed(SEED)
    hub = MessageHub.get_current_instance()
    for clock in ('iter', 'epoch'):  # some losses change with them
        hub.update_info(clock, hub.get_info(clock, 0))
    if hasattr(model, 'set_epoch'):
        model.set_epoch(0)  # as a hook of mmdet does
    model.train()
    data = model.data_preprocessor(batch, training=True)
    total, parsed = model.parse_losses(model(**data, mode='loss'))
    losses = {name: float(value) for name, value in parsed.items()}
    if not all(math.isfinite(value) for value in losses.values()):
        raise ArithmeticError(f'losses are not finite: {losses}')
    return total, losses


def _prediction_error(model: nn.Module, batch: dict[str, Any]) -> str | None:
    model.eval()
    try:
        with torch.no_grad():
            model(**model.data_preprocessor(batch, training=False), mode='predict')
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return None


@contextmanager
def _outputs_of_hiera(model: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """Collect the outputs of every Hiera in a model; those in training keep their gradients."""
    collected: list[tuple[Tensor, ...]] = []

    def keep(module: nn.Module, inputs: Any, features: tuple[Tensor, ...]) -> None:
        if all(feature.requires_grad for feature in features):
            for feature in features:
                feature.retain_grad()
            collected.append(features)

    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, Hiera)]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


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
