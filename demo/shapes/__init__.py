"""The generated `shapes` data set: one set of images for detection and for segmentation."""

from __future__ import annotations

from demo.shapes.outlines import THING_CLASSES
from demo.shapes.scenes import SEG_CLASSES, STUFF_CLASSES
from demo.shapes.shapes import ShapesPaths, make_shapes

__all__ = ['SEG_CLASSES', 'STUFF_CLASSES', 'THING_CLASSES', 'ShapesPaths', 'make_shapes']
