"""Benchmarks that run side by side: backbones, detectors and operators."""
