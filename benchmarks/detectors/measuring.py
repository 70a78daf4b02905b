"""Whole detectors and segmenters side by side: images a second, and where the time goes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config

from benchmarks.detectors.clock import PartClock, divided
from benchmarks.detectors.passes import Iteration, Pass, Prediction
from benchmarks.detectors.pipeline import write_photo
from benchmarks.kit.rounds import Times, measure_rounds
from benchmarks.kit.threads import on_threads
from hiera_mm.cost.building import read
from hiera_mm.cost.measure import DTYPES
from hiera_mm.cost.sizes import Size
from hiera_mm.engine.launch import check_device
from hiera_mm.errors import UserError


@dataclass(frozen=True)
class Setting:
    """How detectors are timed.

    Attributes:
        size: Height and width that every config's pipeline resizes to, or of the images trained
            on; None for what each config says.
        photo: Height and width of the image file.
        device: A torch device, of CPU or CUDA.
        dtype: ``'float32'``, or ``'bfloat16'`` for mixed precision (autocast).
        threads: Threads of torch and OpenCV on a CPU; None to leave them as they are.
        rounds: How often each config is timed as a whole, and again in parts.
        warmups: How often each runs before.
        train: Time training iterations instead of predictions.
        objects: How many objects the detectors see, at most.
    """

    size: Size | None = None
    photo: Size = (480, 640)
    device: str = 'cpu'
    dtype: str = 'float32'
    threads: int | None = None
    rounds: int = 10
    warmups: int = 2
    train: bool = False
    objects: int = 100

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.dtype not in DTYPES:
            raise UserError(f'the dtype must be one of {", ".join(DTYPES)}, got {self.dtype!r}')
        for name, least in (('threads', 1), ('rounds', 1), ('warmups', 0), ('objects', 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f'{name} must be at least {least}, got {value}')


@dataclass(frozen=True)
class Result:
    """What was measured of a config.

    Attributes:
        config: Its name.
        size: Height and width of the images in the model.
        images: Images of a pass.
        times: How long whole passes took.
        parts_apart: Median seconds of each part, in passes of their own, which wait for the device
            after each part; in the order of their first use, `REST` last.
        detections: Objects found in the image; None where none are looked for.
    """

    config: str
    size: Size
    images: int
    times: Times
    parts_apart: Mapping[str, float]
    detections: int | None = None

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.times.median

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part of a whole pass: its share of the passes timed for the parts."""
        scale = self.times.median / sum(self.parts_apart.values())
        return {name: scale * seconds for name, seconds in self.parts_apart.items()}


def read_all(
    configs: Sequence[str], cfg_options: Mapping[str, Any] | None = None
) -> dict[str, Config]:
    """Read several configs and give each a name of its own.

    Args:
        configs: Files, or names of configs that a toolbox ships.
        cfg_options: Values to override in all of them, by dotted key.

    Returns:
        The configs by the names of their files, or as they were given if those are the same.

    Raises:
        UserError: If one is given twice.
        ConfigError: If one cannot be read.
    """
    read_in = {config: read(config, cfg_options) for config in configs}
    if len(read_in) < len(configs):
        raise UserError('a config is given twice, which would be timed against itself')
    stems = [Path(cfg.filename).stem for cfg in read_in.values()]
    return {
        config if stems.count(stem) > 1 else stem: cfg
        for stem, (config, cfg) in zip(stems, read_in.items(), strict=True)
    }


def measure(
    configs: Mapping[str, Config], setting: Setting, report: Callable[[str], None]
) -> list[Result]:
    """Time the models of configs side by side, as wholes and in parts.

    Args:
        configs: Configs that :func:`hiera_mm.cost.building.read` returned, by name.
        setting: How to measure.
        report: Called with a line about what happens next.

    Returns:
        A result for each config, in their order.

    Raises:
        UserError: If the photo cannot be made.
        ConfigError: If a config's model cannot be timed.
    """
    with tempfile.TemporaryDirectory() as folder, on_threads(setting.threads):
        photo = Path(folder) / 'photo.jpg'
        if not setting.train:
            write_photo(photo, setting.photo)
        passes = {}
        for name, cfg in configs.items():
            report(f'{name}: building')
            passes[name] = _pass(cfg, setting, photo)
        if setting.warmups:
            report(f'{setting.warmups} passes each, not timed')

        def say(number: int, name: str, seconds: float) -> None:
            report(f'round {number} of {setting.rounds}: {name}: {seconds:.3g} s')

        times = measure_rounds(
            {name: one.run for name, one in passes.items()},
            setting.rounds,
            warmups=setting.warmups,
            device=setting.device,
            report=say,
        )
        report(f'{setting.rounds} more rounds for the parts')
        parts = _measure_parts(passes, setting)
        return [
            Result(name, one.size, one.images, times[name], parts[name], one.detections)
            for name, one in passes.items()
        ]


def _pass(cfg: Config, setting: Setting, photo: Path) -> Pass:
    if setting.train:
        return Iteration(cfg, setting.size, setting.device, setting.dtype)
    return Prediction(
        cfg, photo, setting.size, setting.device, setting.dtype, objects=setting.objects
    )


def _measure_parts(passes: Mapping[str, Pass], setting: Setting) -> dict[str, dict[str, float]]:
    clock = PartClock(setting.device)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in passes}
    with ExitStack() as stack:
        if not setting.train:  # there, the parts are the steps of an iteration
            for one in passes.values():
                stack.enter_context(divided(one.model, clock))
        measure_rounds(
            {
                name: lambda name=name, one=one: found[name].append(clock.time(one.run))
                for name, one in passes.items()
            },
            setting.rounds,
            warmups=0,
            device=setting.device,
        )
    return {
        name: {part: median(parts[part] for parts in several) for part in several[0]}
        for name, several in found.items()
    }
