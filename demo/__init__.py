"""The demo: a detector and a segmenter with Hiera inside, from nothing to pictures."""

from __future__ import annotations

from demo.driver import run_demo
from demo.steps import DemoError

__all__ = ['DemoError', 'run_demo']
