"""Held-out images with their ground truth and the predictions that `tools/test.py` wrote."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.fileio import load
from pycocotools import mask as rle
from pycocotools.coco import COCO

T = TypeVar('T')


@dataclass(frozen=True)
class Instance:
    """One object, true or predicted.

    Attributes:
        label: Index of its class.
        box: `x1, y1, x2, y2` in pixels.
        mask: `(H, W)` bool.
        score: Of a prediction, between 0 and 1.
        crowd: Whether it is a group of objects that were not told apart.
    """

    label: int
    box: tuple[float, float, float, float]
    mask: np.ndarray
    score: float | None = None
    crowd: bool = False


@dataclass(frozen=True)
class DetectionSample:
    """An image, `(H, W, 3)` uint8 RGB, with its true and its predicted objects."""

    image: np.ndarray
    truth: list[Instance]
    predicted: list[Instance]


@dataclass(frozen=True)
class SegmentationSample:
    """An image, `(H, W, 3)` uint8 RGB, with two `(H, W)` label maps: 0 is unlabelled."""

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def read_detections(
    config: Config, predictions: Path, count: int, min_score: float
) -> list[DetectionSample]:
    """Read images spread evenly over the test set of a COCO-format config.

    Args:
        config: The detector's config.
        predictions: The pickle that mmdet's `DumpDetResults` wrote.
        count: Number of images.
        min_score: Predictions of a lower score are left out.
    """
    dataset = config.test_dataloader.dataset
    root = Path(dataset.data_root)
    with redirect_stdout(io.StringIO()):  # pycocotools reports each index it makes
        coco = COCO(root / dataset.ann_file)
    labels = {
        category['id']: dataset.metainfo.classes.index(category['name'])
        for category in coco.dataset['categories']
        if category['name'] in dataset.metainfo.classes
    }
    samples = []
    for result in _spread(load(predictions), count):
        record = coco.imgs[result['img_id']]
        truth = [
            Instance(
                labels[annotation['category_id']],
                _corners(annotation['bbox']),
                coco.annToMask(annotation).astype(bool),
                crowd=bool(annotation['iscrowd']),
            )
            for annotation in coco.imgToAnns[result['img_id']]
            if annotation['category_id'] in labels
        ]
        found = result['pred_instances']
        fields = zip(found['labels'], found['bboxes'], found['masks'], found['scores'], strict=True)
        predicted = [
            Instance(int(label), tuple(box.tolist()), rle.decode(mask).astype(bool), float(score))
            for label, box, mask, score in fields
            if score >= min_score
        ]
        image = _read_image(root / dataset.data_prefix.img / record['file_name'])
        samples.append(DetectionSample(image, truth, predicted))
    return samples


def read_segmentations(config: Config, predictions: Path, count: int) -> list[SegmentationSample]:
    """Read images spread evenly over the test set of an ADE20K-style config.

    Args:
        config: The segmenter's config.
        predictions: The folder that mmseg's `IoUMetric` wrote label maps into.
        count: Number of images.
    """
    dataset = config.test_dataloader.dataset
    root = Path(dataset.data_root)
    samples = []
    for predicted in _spread(sorted(predictions.glob('*.png')), count):
        image = root / dataset.data_prefix.img_path / f'{predicted.stem}{dataset.img_suffix}'
        truth = (
            root / dataset.data_prefix.seg_map_path / f'{predicted.stem}{dataset.seg_map_suffix}'
        )
        samples.append(
            SegmentationSample(_read_image(image), _read_labels(truth), _read_labels(predicted))
        )
    return samples


def _spread(items: Sequence[T], count: int) -> Iterable[T]:
    """Take `count` items at even distances, so that no one can say they were picked."""
    return items[:: max(1, len(items) // count)][:count]


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Turn COCO's `x, y, width, height` into corners."""
    x, y, width, height = box
    return x, y, x + width, y + height


def _read_image(file: Path) -> np.ndarray:
    """Read an image as RGB."""
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def _read_labels(file: Path) -> np.ndarray:
    """Read a label map as it is."""
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
