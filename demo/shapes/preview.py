"""A picture of a `shapes` set, drawn from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo.figures import draw_instances, image_grid, paint_labels, read_coco, read_image
from demo.shapes.files import ShapesPaths

# By label value, the unlabelled last.
COLOURS = {
    'ground': (0.47, 0.35, 0.24),
    'sky': (0.55, 0.75, 0.88),
    'disc': (0.92, 0.24, 0.24),
    'box': (0.20, 0.67, 0.24),
    'triangle': (0.20, 0.35, 0.92),
    'star': (0.98, 0.78, 0.12),
    'ring': (0.75, 0.24, 0.78),
    'cross': (0.08, 0.67, 0.67),
    'unlabelled': (0.90, 0.90, 0.90),
}


def draw_preview(
    paths: ShapesPaths,
    file: str | Path,
    *,
    split: str = 'training',
    image_ids: Sequence[int] = (1, 2, 3, 4),
) -> None:
    """Draw images of a set above their instances and their label maps.

    Args:
        paths: The set.
        file: Picture to write, `.png` or `.jpg`.
        split: 'training' or 'validation'.
        image_ids: The images, counted from 1.

    Raises:
        KeyError: If the split has no such image.
    """
    coco = read_coco(paths.instances(split))
    figure, grid = image_grid(['Image', 'Instances', 'Label map'], len(image_ids), COLOURS)
    for column, record in zip(grid.T, coco.loadImgs(image_ids), strict=True):
        name = Path(record['file_name'])
        for axes in column[:2]:
            axes.imshow(read_image(paths.images(split) / name))
        draw_instances(column[1], coco, coco.imgToAnns[record['id']], COLOURS)
        column[2].imshow(paint_labels(paths.labels(split) / name.with_suffix('.png'), COLOURS))
    figure.savefig(file)
