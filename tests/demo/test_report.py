from __future__ import annotations

import io

import pytest
from rich.console import Console

from demo.report import Result, results_table
from demo.tasks import DETECTOR, SEGMENTER


def detector(box: float, mask: float) -> Result:
    metrics = {'coco/bbox_mAP': box, 'coco/segm_mAP': mask}
    return Result(DETECTOR, metrics, iterations=400, seconds=90.0, device='cpu')


@pytest.mark.parametrize(
    ('box', 'mask', 'missed'),
    [
        (0.5, 0.45, []),
        (0.499, 0.45, ['box AP']),
        (0.5, 0.449, ['mask AP']),
        (float('nan'), -1.0, ['box AP', 'mask AP']),
    ],
)
def test_missed_bars(box, mask, missed):
    assert detector(box, mask).missed == missed


def test_scores_are_read_in_their_own_units():
    assert Result(SEGMENTER, {'mIoU': 75.0}, 1, 1.0, 'cpu').missed == []
    assert Result(SEGMENTER, {'mIoU': 74.9}, 1, 1.0, 'cpu').missed == ['mIoU']


def test_table_shows_measured_value_beside_its_bar():
    results = [detector(0.58, 0.4), Result(SEGMENTER, {'mIoU': 81.25}, 300, 150.0, 'cuda')]
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(results))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ['Mask', 'R-CNN', 'box', 'AP', '0.580', '0.50', '✓', '400', '1.5', 'cpu'] in rows
    assert ['mask', 'AP', '0.400', '0.45', '✗'] in rows
    assert ['UPerNet', 'mIoU', '0.812', '0.75', '✓', '300', '2.5', 'cuda'] in rows
