"""The Hiera network in pure PyTorch: nothing here imports any OpenMMLab package."""

from .trunk import HieraTrunk
from .variants import VARIANTS, Variant, resolve_variant

__all__ = ['VARIANTS', 'HieraTrunk', 'Variant', 'resolve_variant']
