"""Backbones side by side: ours and every other Hiera that is installed."""
