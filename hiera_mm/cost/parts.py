"""The parts of a model, as a table of its cost names them."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from torch import nn

from ..network import HieraTrunk

REST = 'rest'
"""The part of whatever belongs to no other: parameters and operations of the model itself."""


class Parts:
    """A model divided into parts: every module belongs to one of them, and so every parameter.

    The children of the model are its parts. The Hiera inside is divided into stem, stages and,
    where it has them, what brings its outputs to other channels or strides; a RoI head is divided
    into the heads inside it.

    Args:
        model: Any model.

    Attributes:
        owners: The name of the part of each module.
        roots: The modules with which a part begins.
        resizers: The modules whose own products, not those of the modules inside, resize maps.
    """

    def __init__(self, model: nn.Module) -> None:
        self.owners: dict[nn.Module, str] = {}
        self.roots: list[nn.Module] = []
        self.resizers: set[nn.Module] = set()
        self._model = model
        self._divide(model, '')

    def parameters(self) -> Counter[str]:
        """Return the number of parameters of each part; one that is shared counts once."""
        counts = Counter(dict.fromkeys(self.owners.values(), 0))
        for name, parameter in self._model.named_parameters():
            module = self._model.get_submodule(name.rpartition('.')[0])
            counts[self.owners[module]] += parameter.numel()
        return counts

    def _divide(self, module: nn.Module, path: str) -> None:
        self._assign(module, path or REST)
        if isinstance(module, HieraTrunk):
            self._divide_hiera(module, path)
        elif _is_made_of_parts(module, path):
            for name, child in module.named_children():
                self._divide(child, f'{path}.{name}' if path else name)

    def _divide_hiera(self, hiera: HieraTrunk, path: str) -> None:
        prefix = f'{path}.' if path else ''
        # The Hiera itself does only what happens before the first block: position embedding.
        self._assign(hiera, f'{prefix}stem')
        ends = list(accumulate(hiera.variant.depths))
        for index, block in enumerate(hiera.blocks):
            stage = sum(index >= end for end in ends)
            self._assign(block, f'{prefix}stage {stage + 1}')
        for stage, norm in hiera.out_norms.items():
            self._assign(norm, f'{prefix}stage {int(stage) + 1}')
        self.resizers.add(hiera)
        if getattr(hiera, 'outputs', None) is not None:
            self._assign(hiera.outputs, f'{prefix}outputs')
            self.resizers.add(hiera.outputs)

    def _assign(self, root: nn.Module, name: str) -> None:
        self.roots.append(root)
        for module in root.modules():
            self.owners[module] = name


def is_backbone(name: str) -> bool:
    """Tell whether a part, by its name, belongs to a backbone."""
    return 'backbone' in name.split('.')


def _is_made_of_parts(module: nn.Module, path: str) -> bool:
    return (
        not path
        or path.endswith('roi_head')
        or hasattr(module, 'backbone')  # a model inside a model, such as a teacher
        or any(isinstance(inner, HieraTrunk) for inner in module.modules())
    )
