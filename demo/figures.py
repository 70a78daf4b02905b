"""The pictures that the demo ends with, and what the picture of its data shares with them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmengine.config import Config
from mmengine.fileio import load
from pycocotools.coco import COCO

from demo.tasks import Task
from demo.training import History

Colour = tuple[float, float, float]  # RGB in [0, 1]

PALETTE: tuple[Colour, ...] = mpl.colormaps['tab10'].colors
PICTURED = 5  # images in each picture
MIN_SCORE = 0.5  # of the detections drawn
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
    names = {name: 0 for record in history.losses.values() for name in record if 'loss' in name}
    for name in sorted(names, key='loss'.__eq__):  # the total last, over its parts
        values = [record.get(name, np.nan) for record in history.losses.values()]
        style = dict(color='black', linewidth=2) if name == 'loss' else dict(linewidth=1, alpha=0.8)
        left.plot(iterations, values, label=name, **style)
    left.set(title='Training loss', xlabel='iteration', ylim=(0, None))

    for colour, score in zip(PALETTE, task.scores, strict=False):
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


def draw_detections(config: Config, predictions: Path, file: Path) -> None:
    """Draw true objects above predicted ones, a column for each image.

    Args:
        config: A detector's config; its test set is of COCO's format.
        predictions: The pickle that mmdet's `DumpDetResults` wrote.
        file: Picture to write, `.png`.
    """
    dataset = config.test_dataloader.dataset
    root = Path(dataset.data_root)
    coco = read_coco(root / dataset.ann_file)
    ids = {category['name']: category['id'] for category in coco.cats.values()}
    classes = dataset.metainfo.classes
    colours = _colours_of(classes)
    results = _spread(load(predictions))
    figure, grid = image_grid(['Ground truth', 'Prediction'], len(results), colours)
    for column, result in zip(grid.T, results, strict=True):
        image_id, found = result['img_id'], result['pred_instances']
        image = read_image(root / dataset.data_prefix.img / coco.imgs[image_id]['file_name'])
        labels, boxes, scores = (found[key].tolist() for key in ('labels', 'bboxes', 'scores'))
        predicted = [
            {
                'image_id': image_id,
                'category_id': ids[classes[label]],
                'bbox': [x1, y1, x2 - x1, y2 - y1],
                'segmentation': mask,
                'score': score,
            }
            for label, (x1, y1, x2, y2), mask, score in zip(
                labels, boxes, found['masks'], scores, strict=True
            )
            if score >= MIN_SCORE
        ]
        for axes, objects in zip(column, (coco.imgToAnns[image_id], predicted), strict=True):
            axes.imshow(image)
            draw_instances(axes, coco, objects, colours)
    figure.savefig(file)


def draw_segmentations(config: Config, predictions: Path, file: Path) -> None:
    """Draw images, their true and their predicted label maps, a column for each image.

    Args:
        config: A segmenter's config; in its label maps, class `i` has the label `i + 1`.
        predictions: The folder that mmseg's `IoUMetric` wrote label maps into.
        file: Picture to write, `.png`.
    """
    dataset = config.test_dataloader.dataset
    root, prefix = Path(dataset.data_root), dataset.data_prefix
    colours = {**_colours_of(dataset.metainfo.classes), 'unlabelled': (0.0, 0.0, 0.0)}
    results = _spread(sorted(predictions.glob('*.png')))
    figure, grid = image_grid(['Image', 'Ground truth', 'Prediction'], len(results), colours)
    for column, predicted in zip(grid.T, results, strict=True):
        image = read_image(root / prefix.img_path / f'{predicted.stem}{dataset.img_suffix}')
        truth = root / prefix.seg_map_path / f'{predicted.stem}{dataset.seg_map_suffix}'
        column[0].imshow(image)
        grey = image.mean(axis=2, keepdims=True) / 255  # its own colours would mix with ours
        for axes, labels in zip(column[1:], (truth, predicted), strict=True):
            axes.imshow(0.3 * grey + 0.7 * paint_labels(labels, colours))
    figure.savefig(file)


def read_coco(file: Path) -> COCO:
    """Read a COCO file without pycocotools' reports of each index it makes."""
    with redirect_stdout(io.StringIO()):
        return COCO(file)


def read_image(file: Path) -> np.ndarray:
    """Read an image as RGB, `(H, W, 3)` uint8."""
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def paint_labels(file: Path, colours: Mapping[str, Colour]) -> np.ndarray:
    """Read a label map in the colours of its classes; what is no class gets the last colour."""
    labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(int) - 1
    # 0 is -1 now, the last colour, and so is whatever lies beyond the classes: often 255.
    return np.array(list(colours.values()))[np.minimum(labels, len(colours) - 1)]


def image_grid(
    rows: Sequence[str], columns: int, colours: Mapping[str, Colour]
) -> tuple[Figure, np.ndarray]:
    """Return a figure with axes for images, `(rows, columns)`, and below them what colours mean."""
    size = (IMAGE_INCHES * columns, IMAGE_INCHES * len(rows) + LEGEND_INCHES)
    figure = Figure(figsize=size, dpi=DPI, layout='constrained')
    legend_share = LEGEND_INCHES / size[1]
    figure.get_layout_engine().set(rect=(0, legend_share, 1, 1 - legend_share))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize='large')
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc='lower center', ncols=len(handles), frameon=False)
    return figure, grid


def draw_instances(
    axes: Axes, coco: COCO, annotations: Sequence[dict[str, Any]], colours: Mapping[str, Colour]
) -> None:
    """Draw the masks, the boxes and the names of objects, but for classes without a colour."""
    for annotation in annotations:
        text = coco.cats[annotation['category_id']]['name']
        if text not in colours:
            continue
        colour = colours[text]
        crowd = annotation.get('iscrowd')
        text += ' (crowd)' if crowd else ''
        text += f' {annotation["score"]:.2f}' if 'score' in annotation else ''
        mask = coco.annToMask(annotation)[..., None]
        axes.imshow(mask * np.array([*colour, 0.45]), interpolation='nearest')
        x, y, width, height = annotation['bbox']
        style = dict(edgecolor=colour, linewidth=1.2, linestyle=':' if crowd else '-')
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **style))
        axes.text(
            x,
            max(y - 1, 6),
            text,
            color='white',
            fontsize=6,
            verticalalignment='bottom',
            clip_on=True,
            bbox=dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85),
        )


def _colours_of(classes: Sequence[str]) -> dict[str, Colour]:
    """Give each class a colour of the palette."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(classes)}


def _spread(items: Sequence[Any]) -> Sequence[Any]:
    """Take `PICTURED` items at even distances, so that no one can say they were picked."""
    return items[:: max(1, len(items) // PICTURED)][:PICTURED]
