"""How fast the masked autoencoder is, over mask ratios and beside others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hiera
import torch
from hiera import hiera_mae
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.kit.options import say
from benchmarks.kit.timing import measure_rounds, on_threads
from hiera_mm.cost.report import table
from hiera_mm.engine.launch import check_device, describe_device
from hiera_mm.errors import UserError
from hiera_mm.pretrain import HieraMAE

RATIOS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
RATIO = 0.6  # the paper's
Row = dict[str, Any]


def released(arch: str) -> nn.Module:
    """Build the release's masked autoencoder of an architecture."""
    return getattr(hiera_mae, f'mae_hiera_{arch}_224')(pretrained=False)


def optimised(arch: str) -> nn.Module:
    """Build the release's as `hiera-optim` changes it.

    Version 0.2.1 looks for two things that hiera-transformer 0.1.4 does not have where it looks.
    """
    hiera.apply_fusion_head = hiera_mae.apply_fusion_head
    hiera.Hiera._grad_checkpointing = False
    from hiera_optim import optimize

    return optimize(released(arch))


def measure(setting: Namespace) -> tuple[list[Row], str]:
    """Measure with the options of ``benchmarks/mae_speed.py``; return rows, and a title.

    Raises:
        UserError: If there is no such architecture or device, or another one's loss is not ours.
    """
    check_device(setting.device)
    if not hasattr(hiera_mae, f'mae_hiera_{setting.arch}_224'):
        raise UserError(f'the release has no masked autoencoder called {setting.arch!r}')
    with on_threads(setting.threads):
        torch.manual_seed(0)
        images = torch.randn(setting.batch, 3, 224, 224, device=setting.device)
        models = {'the release': released(setting.arch)}
        if find_spec('hiera_optim') is not None:
            models['hiera-optim'] = optimised(setting.arch)
        models['hiera_mm'] = HieraMAE(dict(type='Hiera', arch=setting.arch))
        state = models['the release'].state_dict()
        ours = models['hiera_mm']
        for model in models.values():
            names = {name.removeprefix('backbone.'): name for name in ours.state_dict()}
            own = {names[k]: v for k, v in state.items()} if model is ours else state
            model.to(setting.device).load_state_dict(own)
        compare(models, images[:1])
        steps = {name: step_of(model, setting) for name, model in models.items()}
        encoders = {ratio: encoder_of(ours, ratio, setting) for ratio in RATIOS}
        works = {
            **{('encoder', ratio): lambda run=run: run(images) for ratio, run in encoders.items()},
            **{('step', name): lambda run=run: run(images) for name, run in steps.items()},
        }
        times = measure_rounds(
            works,
            setting.rounds,
            warmups=setting.warmups,
            device=setting.device,
            report=lambda number, work, seconds: say(f'{number}: {work} {seconds:.3f} s'),
        )
        where = describe_device(setting.device, setting.threads)
    first = {'encoder': times['encoder', 0.0].median, 'step': times['step', 'the release'].median}
    rows = [
        dict(
            what=what, case=case, seconds=found.median, spread=found.spread,
            ratio=found.median / first[what],
        )
        for (what, case), found in times.items()
    ]  # fmt: skip
    about = (
        f'Hiera {setting.arch}, {setting.batch} images of 224x224, forward and backward, '
        f'{setting.dtype}{", compiled" if setting.compile else ""}, {where}, '
        f'torch {torch.__version__}'
    )
    return rows, about


def compare(models: dict[str, nn.Module], images: Tensor) -> None:
    """Raise a UserError unless all have the same loss for the same weights and mask."""
    mask, _ = models['hiera_mm'].draw_mask(images, mask_ratio=RATIO)
    losses = {}
    for name, model in models.items():
        model.double().eval()
        run = model.forward_mae if name == 'hiera_mm' else model
        losses[name] = run(images.double(), mask=mask)[0].item()
        model.float().train()
    if max(losses.values()) - min(losses.values()) > 1e-9:
        raise UserError(f'the losses differ, so nothing is timed: {losses}')


def step_of(model: nn.Module, setting: Namespace) -> Callable[[Tensor], None]:
    """Return a training step of the whole autoencoder."""
    run = model.forward_mae if isinstance(model, HieraMAE) else model
    return _step(model, lambda images: run(images, mask_ratio=RATIO)[0], setting)


def encoder_of(model: HieraMAE, ratio: float, setting: Namespace) -> Callable[[Tensor], None]:
    """Return a training step of the encoder alone, which sees all units at a ratio of 0."""

    def run(images: Tensor) -> Tensor:
        units = images.shape[2] * images.shape[3] // 32**2
        mask = torch.ones(len(images), units, dtype=torch.bool, device=images.device)
        visible = torch.arange(units, device=images.device).expand(len(images), -1)
        if ratio:
            mask, visible = model.draw_mask(images, mask_ratio=ratio)
        return model.encode(images, mask, visible).float().square().mean()

    return _step(model, run, setting)


def _step(
    model: nn.Module, loss: Callable[[Tensor], Tensor], setting: Namespace
) -> Callable[[Tensor], None]:
    if setting.compile:
        loss = torch.compile(loss, dynamic=False)
    dtype = getattr(torch, setting.dtype)

    def step(images: Tensor) -> None:
        with torch.autocast(setting.device, dtype, enabled=dtype != torch.float32):
            value = loss(images)
        value.backward()
        model.zero_grad()

    return step


def as_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    cells = [
        (
            row['what'], str(row['case']), f'{row["seconds"]:.3f}', f'{row["spread"]:.0%}',
            f'{row["ratio"]:.2f}',
        )
        for row in rows
    ]  # fmt: skip
    return table(('', 'mask ratio or whose', 'seconds', 'spread', 'of the first'), cells, texts=2)


def draw(rows: Sequence[Row], title: str, file: Path) -> None:
    """Draw bars: the encoder over mask ratios, and steps beside each other."""
    figure = Figure(figsize=(10, 4), dpi=120, layout='constrained')
    figure.suptitle(title, fontsize='small')
    axes = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = {
        'encoder': 'Encoder by mask ratio, to that of all units',
        'step': f"Whole step at mask ratio {RATIO}, to the release's",
    }
    for panel, (what, name) in zip(axes, kinds.items(), strict=True):
        mine = [row for row in rows if row['what'] == what]
        bars = panel.bar([str(row['case']) for row in mine], [row['ratio'] for row in mine])
        panel.bar_label(bars, fmt='%.2f', fontsize='small', padding=5)
        if what == 'encoder':
            shares = [1 - row['case'] for row in mine]
            panel.plot(range(len(mine)), shares, 'k_', markersize=30, label='share of units')
            panel.legend(frameon=False, fontsize='small')
        panel.set_title(name, fontsize='medium')
        panel.spines[['top', 'right']].set_visible(False)
    figure.savefig(file)
