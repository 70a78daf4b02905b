"""Measure what a model costs: count, run, and time it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..engine.config import as_list, walk
from ..engine.launch import check_device
from ..errors import UserError
from ..trial import models
from ..trial.batches import BATCH, processed_batch
from ..trial.configs import Size, copied, test_size
from .activations import saved_activations
from .counting import WithoutProducts, counting
from .parts import Parts, is_backbone

DTYPES = ('float32', 'bfloat16')


@dataclass(frozen=True)
class Setting:
    """How the cost is measured.

    Attributes:
        device: A torch device, of CPU or CUDA.
        dtype: ``'float32'``, or ``'bfloat16'`` for mixed precision (autocast).
        activations: Whether to find out what a training forward pass keeps.
        timed: Whether to time predictions.
        train: Whether to time training iterations, which takes the most time and memory.
        repeats: Timed predictions or iterations, after one that is not timed.
    """

    device: str = 'cpu'
    dtype: str = 'float32'
    activations: bool = True
    timed: bool = True
    train: bool = False
    repeats: int = 5

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.dtype not in DTYPES:
            raise UserError(f'the dtype must be one of {", ".join(DTYPES)}, got {self.dtype!r}')
        if self.repeats < 1:
            raise UserError(f'repeats must be at least 1, got {self.repeats}')

    @property
    def precision(self) -> AbstractContextManager[Any]:
        """The context in which models run."""
        return precision(self.device, self.dtype)


class Part(NamedTuple):
    """What a part of a model costs.

    Attributes:
        name: Its name, such as ``'neck'`` or ``'backbone.stage 3'``.
        parameters: Number of its parameters.
        multiply_adds: Multiply-adds of one image, those inside attention included.
        attention: Multiply-adds of the two products inside attention.
    """

    name: str
    parameters: int
    multiply_adds: int
    attention: int


class Timing(NamedTuple):
    """How long something took.

    Attributes:
        seconds: Median time.
        peak: Most bytes in use on the GPU meanwhile; None elsewhere.
    """

    seconds: float
    peak: int | None = None


@dataclass(frozen=True)
class Cost:
    """What one image costs a model.

    Attributes:
        config: Name of the config.
        size: Height and width of the image in pixels.
        parts: The parts of the model, those that run in the order of their first use.
        detections: How many detections the image got; None for segmentation.
        activations: Bytes that an image keeps for the backward pass; None if not measured.
        prediction: A prediction of one image; None if not measured.
        training: A training iteration of `BATCH` images; None if not measured.
    """

    config: str
    size: Size
    parts: tuple[Part, ...]
    detections: int | None = None
    activations: int | None = None
    prediction: Timing | None = None
    training: Timing | None = None

    @property
    def total(self) -> Part:
        """The sum of all parts."""
        return _sum('total', self.parts)

    @property
    def backbone(self) -> Part:
        """The sum of the parts of the backbone."""
        return _sum('backbone', [part for part in self.parts if is_backbone(part.name)])

    @property
    def rest(self) -> Part:
        """The sum of all that is not backbone."""
        return _sum('rest', [part for part in self.parts if not is_backbone(part.name)])


def _sum(name: str, parts: Sequence[Part]) -> Part:
    return Part(name, *map(sum, zip((0, 0, 0), *(part[1:] for part in parts), strict=True)))


def measure(
    cfg: Config, sizes: Sequence[Size], setting: Setting, report: Callable[[str], None]
) -> list[Cost]:
    """Measure what a config's model costs, for one image at each size.

    Args:
        cfg: A config that :func:`hiera_mm.trial.configs.read` returned.
        sizes: Heights and widths; none for that of the config's test.
        setting: How to measure.
        report: Called with a line about what happens next.

    Raises:
        ConfigError: If the config has no size of its own, or a model of several images at once.
    """
    name = Path(cfg.filename).stem
    sizes = list(sizes) or [test_size(cfg)]
    report(f'{name}: building')
    model = build(cfg).to(setting.device)
    costs = []
    for size in sizes:
        where = f'{name} at {size[0]}x{size[1]}'
        with models.in_scope(cfg.default_scope):
            report(f'{where}: counting multiply-adds')
            parts, detections = _count(model, cfg, size, setting)
            activations = prediction = training = None
            if setting.activations:
                report(f'{where}: a training forward pass')
                activations = _activations(model, cfg, size, setting)
            if setting.timed:
                report(f'{where}: {setting.repeats + 1} predictions')
                prediction = _time_prediction(model, cfg, size, setting)
            if setting.train:
                report(f'{where}: {setting.repeats + 1} training iterations')
                training = _time_training(model, cfg, size, setting)
        costs.append(Cost(name, size, parts, detections, activations, prediction, training))
    return costs


def build(cfg: Config) -> nn.Module:
    """Build the model of a config for counting: random weights, in evaluation mode.

    Of random weights no detection would pass a score threshold, so thresholds become 0: what
    follows them then processes as much as the test settings allow.

    Args:
        cfg: A config that :func:`hiera_mm.trial.configs.read` returned.
    """
    model = copied(cfg.model)
    for node in walk(model):
        if isinstance(node.get('score_thr'), int | float):
            node['score_thr'] = 0.0
    return models.build(model, cfg.default_scope).eval()


def precision(device: str, dtype: str) -> AbstractContextManager[Any]:
    """Return the context in which models run in a dtype, as autocast mixes it with float32.

    Args:
        device: A torch device.
        dtype: One of `DTYPES`.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == 'bfloat16')


def _count(
    model: nn.Module, cfg: Config, size: Size, setting: Setting
) -> tuple[tuple[Part, ...], int | None]:
    """Return the parts of a model with their costs, and the detections if the model detects."""
    data = processed_batch(model, cfg, size)
    torch.manual_seed(0)
    with torch.no_grad(), setting.precision, WithoutProducts(), counting(model) as counts:
        results = model(**data, mode='predict')
    parameters = Parts(model).parameters()
    parts = [
        Part(name, parameters[name], counts.total[name], counts.attention[name])
        for name in dict.fromkeys([*counts.total, *parameters])
    ]
    instances = getattr(as_list(results)[0], 'pred_instances', None)
    used = tuple(part for part in parts if part.parameters or part.multiply_adds)
    return used, None if instances is None else len(instances)


def _activations(model: nn.Module, cfg: Config, size: Size, setting: Setting) -> int:
    """Return the bytes that one image keeps for the backward pass in training."""
    model.train()
    # Norms over a batch need more than one value.
    images = BATCH if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()) else 1
    data = processed_batch(model, cfg, size, count=images, training=True)
    torch.manual_seed(0)
    with setting.precision, WithoutProducts(), saved_activations(model) as activations:
        model(**data, mode='loss')
    model.eval()
    return activations.bytes // images


def _time_prediction(model: nn.Module, cfg: Config, size: Size, setting: Setting) -> Timing:
    """Time predictions of one image, from the normalised batch to the result."""
    data = processed_batch(model, cfg, size)

    def predict() -> None:
        with torch.no_grad(), setting.precision:
            model(**data, mode='predict')

    return _timing(predict, setting)


def _time_training(model: nn.Module, cfg: Config, size: Size, setting: Setting) -> Timing:
    """Time training iterations: losses, gradients, and a step of AdamW; weights change."""
    model.train()
    data = processed_batch(model, cfg, size, count=BATCH, training=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def iterate() -> None:
        with setting.precision:
            losses = model(**data, mode='loss')
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    timing = _timing(iterate, setting)
    model.eval()
    return timing


def _timing(work: Callable[[], None], setting: Setting) -> Timing:
    device = torch.device(setting.device)
    on_gpu = device.type == 'cuda'

    def seconds() -> float:
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    median = statistics.median(seconds() for _ in range(setting.repeats))
    return Timing(median, torch.cuda.max_memory_allocated(device) if on_gpu else None)
