"""The pictures that the demo ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from demo.history import History
from demo.samples import DetectionSample, Instance, SegmentationSample
from demo.tasks import Task

COLOURS = mpl.colormaps['tab10'].colors
UNLABELLED = (0.0, 0.0, 0.0)
DPI = 120
IMAGE_INCHES = 2.7
LEGEND_INCHES = 0.4


def draw_curves(task: Task, history: History, file: Path) -> None:
    """Draw losses and scores over the iterations, the bars as broken lines.

    Args:
        task: What was trained; its scores are drawn.
        history: The log of the training.
        file: Picture to write, `.png`.
    """
    figure = Figure(figsize=(11, 4), dpi=DPI, layout='constrained')
    figure.suptitle(f'{task.title} with Hiera')
    left, right = figure.subplots(1, 2)

    iterations = list(history.losses)
    parts = {name: None for losses in history.losses.values() for name in losses}
    parts.pop('loss', None)
    for name in parts:
        values = [losses.get(name, np.nan) for losses in history.losses.values()]
        left.plot(iterations, values, linewidth=1, alpha=0.8, label=name)
    total = [losses['loss'] for losses in history.losses.values()]
    left.plot(iterations, total, color='black', linewidth=2, label='loss')
    left.set(title='Training loss', xlabel='iteration', ylim=(0, None))

    for colour, score in zip(COLOURS, task.scores, strict=False):
        values = [score.read(metrics) for metrics in history.metrics.values()]
        right.plot(
            list(history.metrics), values, 'o-', color=colour, label=score.name, clip_on=False
        )
        label = f'{score.name} asked for: {score.bar:.2f}'
        right.axhline(score.bar, color=colour, linestyle='--', linewidth=1, label=label)
    right.set(title='Score on held-out images', xlabel='iteration', ylim=(0, 1))

    for axes, place in ((left, 'upper right'), (right, 'upper left')):
        axes.set_xlim(0, max(iterations, default=1))
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize='small', frameon=False, loc=place)
    figure.savefig(file)


def draw_detections(samples: Sequence[DetectionSample], classes: Sequence[str], file: Path) -> None:
    """Draw true objects above predicted ones, a column for each image.

    Args:
        samples: The images; at least one.
        classes: Names of the labels.
        file: Picture to write, `.png`.
    """
    figure, grid = _grid(['Ground truth', 'Prediction'], len(samples))
    for column, sample in zip(grid.T, samples, strict=True):
        for axes, instances in zip(column, (sample.truth, sample.predicted), strict=True):
            axes.imshow(sample.image)
            for instance in instances:
                _draw_instance(axes, instance, classes)
    _add_legend(figure, classes)
    figure.savefig(file)


def draw_segmentations(
    samples: Sequence[SegmentationSample], classes: Sequence[str], file: Path
) -> None:
    """Draw images, their true and their predicted label maps, a column for each image.

    Args:
        samples: The images; at least one.
        classes: Names of the classes; class `i` has the label `i + 1`.
        file: Picture to write, `.png`.
    """
    palette = np.array([UNLABELLED, *(_colour(label) for label in range(len(classes)))])
    figure, grid = _grid(['Image', 'Ground truth', 'Prediction'], len(samples))
    for column, sample in zip(grid.T, samples, strict=True):
        column[0].imshow(sample.image)
        grey = sample.image.mean(axis=2, keepdims=True) / 255  # its own colours would mix with ours
        for axes, labels in zip(column[1:], (sample.truth, sample.predicted), strict=True):
            labels = np.where(labels > len(classes), 0, labels)  # 255 often means unlabelled, too
            axes.imshow(0.3 * grey + 0.7 * palette[labels])
    _add_legend(figure, classes, [Patch(color=UNLABELLED, label='unlabelled')])
    figure.savefig(file)


def _colour(label: int) -> tuple[float, float, float]:
    """Return the colour of a class."""
    return COLOURS[label % len(COLOURS)]


def _grid(rows: Sequence[str], columns: int) -> tuple[Figure, np.ndarray]:
    """Return a figure with room for images and, below them, a legend."""
    size = (IMAGE_INCHES * columns, IMAGE_INCHES * len(rows) + LEGEND_INCHES)
    figure = Figure(figsize=size, dpi=DPI, layout='constrained')
    figure.get_layout_engine().set(
        rect=(0, LEGEND_INCHES / size[1], 1, 1 - LEGEND_INCHES / size[1])
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize='large')
    return figure, grid


def _draw_instance(axes: Axes, instance: Instance, classes: Sequence[str]) -> None:
    """Draw the mask, the box and the name of one object."""
    colour = _colour(instance.label)
    overlay = np.zeros((*instance.mask.shape, 4))
    overlay[instance.mask] = (*colour, 0.45)
    axes.imshow(overlay, interpolation='nearest')
    x1, y1, x2, y2 = instance.box
    style = ':' if instance.crowd else '-'
    axes.add_patch(
        Rectangle(
            (x1 - 0.5, y1 - 0.5),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=colour,
            linewidth=1.2,
            linestyle=style,
        )
    )
    text = classes[instance.label]
    if instance.crowd:
        text += ' (crowd)'
    if instance.score is not None:
        text += f' {instance.score:.2f}'
    axes.text(
        x1,
        max(y1 - 1, 6),
        text,
        color='white',
        fontsize=6,
        verticalalignment='bottom',
        clip_on=True,
        bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8, 'alpha': 0.85},
    )


def _add_legend(figure: Figure, classes: Sequence[str], extra: Sequence[Patch] = ()) -> None:
    """Name the colours at the bottom."""
    handles = [Patch(color=_colour(label), label=name) for label, name in enumerate(classes)]
    handles += extra
    figure.legend(handles=handles, loc='lower center', ncols=len(handles), frameon=False)
