"""Weights of every project that publishes a Hiera, read into our names and written back."""

from .loading import Report, load, plan, read, variant_of

__all__ = ['Report', 'load', 'plan', 'read', 'variant_of']
