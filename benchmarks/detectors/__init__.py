"""Whole detectors and segmenters side by side, from the image file to the result."""
