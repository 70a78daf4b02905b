"""Experiments on Hiera that anyone can repeat: what they measure is what docs/resolution.md says."""
