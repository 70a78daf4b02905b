"""The generated `shapes` data set: one set of images for detection and for segmentation."""

from __future__ import annotations

from demo.shapes.files import ShapesPaths, make_shapes
from demo.shapes.scenes import SEG_CLASSES, STUFF_CLASSES, THING_CLASSES

__all__ = ['SEG_CLASSES', 'STUFF_CLASSES', 'THING_CLASSES', 'ShapesPaths', 'make_shapes']
