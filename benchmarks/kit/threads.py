"""How many threads a benchmark works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Let torch and OpenCV work on a number of threads meanwhile; None to leave them alone."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    if count is not None:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
