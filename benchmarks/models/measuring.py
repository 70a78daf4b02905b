"""Models of configs side by side: images a second, and the time of their parts."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmengine.config import Config

from benchmarks.kit.timing import Times, measure_rounds, on_threads
from benchmarks.models.parts import PartClock, divided
from benchmarks.models.passes import Iteration, Prediction, write_photo
from hiera_mm.errors import UserError
from hiera_mm.trial.configs import Size, read


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


def read_all(configs: Sequence[str], cfg_options: Sequence[str] = ()) -> dict[str, Config]:
    """Read configs, by the names of their files, or as they were given where those are alike."""
    read_in = {config: read(config, cfg_options) for config in configs}
    if len(read_in) < len(configs):
        raise UserError('a config is given twice, which would be timed against itself')
    stems = [Path(cfg.filename).stem for cfg in read_in.values()]
    return {
        config if stems.count(stem) > 1 else stem: cfg
        for stem, (config, cfg) in zip(stems, read_in.items(), strict=True)
    }


def measure(
    configs: Mapping[str, Config], setting: Namespace, report: Callable[[str], None]
) -> list[Result]:
    """Time the models of configs side by side, as wholes and in parts.

    Args:
        configs: What `read_all` returned.
        setting: The options of ``benchmarks/detectors.py``: `size`, `photo`, `device`, `dtype`,
            `threads`, `rounds`, `warmups`, `train` and `objects`.
        report: Called with a line about what happens next.
    """
    with tempfile.TemporaryDirectory() as folder, on_threads(setting.threads):
        photo = Path(folder) / 'photo.jpg'
        if not setting.train:
            write_photo(photo, setting.photo)
        passes: dict[str, Prediction | Iteration] = {}
        for name, cfg in configs.items():
            report(f'{name}: building')
            if setting.train:
                passes[name] = Iteration(cfg, setting.size, setting.device, setting.dtype)
            else:
                passes[name] = Prediction(
                    cfg, photo, setting.size, setting.device, setting.dtype, setting.objects
                )
        times = measure_rounds(
            {name: one.run for name, one in passes.items()},
            setting.rounds,
            warmups=setting.warmups,
            device=setting.device,
            report=lambda number, name, seconds: report(f'round {number}: {name}: {seconds:.3g} s'),
        )
        report(f'{setting.rounds} more rounds for the parts')
        parts = _measure_parts(passes, setting)
        return [
            Result(name, one.size, one.images, times[name], parts[name], one.detections)
            for name, one in passes.items()
        ]


def _measure_parts(
    passes: Mapping[str, Prediction | Iteration], setting: Namespace
) -> dict[str, dict[str, float]]:
    clock = PartClock(setting.device)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in passes}
    with ExitStack() as stack:
        if not setting.train:  # there, the parts are the steps of an iteration
            for one in passes.values():
                stack.enter_context(divided(one.model, clock))
        works = {
            name: lambda name=name, one=one: found[name].append(clock.time(one.run))
            for name, one in passes.items()
        }
        measure_rounds(works, setting.rounds, warmups=0, device=setting.device)
    return {
        name: {part: median(parts[part] for parts in several) for part in several[0]}
        for name, several in found.items()
    }
