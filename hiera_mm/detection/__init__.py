"""What the paper's detectors have and mmdet lacks.

Nothing here is imported with the package: a config that needs it names
`hiera_mm.detection.heads` in its `custom_imports`.
"""
