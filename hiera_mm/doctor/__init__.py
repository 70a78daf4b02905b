"""Tells what is installed and how to repair it: ``python -m hiera_mm.doctor``."""
