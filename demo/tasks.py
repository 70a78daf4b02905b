"""The two models of the demo, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One number that a model is judged by.

    Attributes:
        name: What the field calls it.
        key: Its key among the metrics of the toolbox.
        full: The toolbox's value of a perfect score, 1 or 100.
        bar: The least that the demo has to reach, between 0 and 1.
    """

    name: str
    key: str
    full: float
    bar: float

    def read(self, metrics: dict[str, float]) -> float:
        """Return the score from a toolbox's metrics, between 0 and 1."""
        return metrics[self.key] / self.full


@dataclass(frozen=True)
class Task:
    """One model of the demo.

    Attributes:
        name: Its folder under the demo's work folder.
        title: Its name for people.
        config: Path of its config, from the folder that holds configs/ and tools/.
        scores: What it is judged by.
        out: What `tools/test.py --out` is given, in the model's folder.
    """

    name: str
    title: str
    config: str
    scores: tuple[Score, ...]
    out: str


DETECTOR = Task(
    name='detector',
    title='Mask R-CNN',
    config='configs/demo/mask-rcnn_hiera-demo_fpn_shapes.py',
    scores=(
        Score('box AP', 'coco/bbox_mAP', full=1.0, bar=0.50),
        Score('mask AP', 'coco/segm_mAP', full=1.0, bar=0.45),
    ),
    out='predictions.pkl',
)
SEGMENTER = Task(
    name='segmenter',
    title='UPerNet',
    config='configs/demo/upernet_hiera-demo_shapes.py',
    scores=(Score('mIoU', 'mIoU', full=100.0, bar=0.75),),
    out='predictions',
)
TASKS = (DETECTOR, SEGMENTER)
