"""Whole detectors and segmenters side by side, and where their time goes."""
