"""Put Hiera into a config that works with another backbone."""

from __future__ import annotations

from .swapping import Swapped, swap

__all__ = ['Swapped', 'swap']
