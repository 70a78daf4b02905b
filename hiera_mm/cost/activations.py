"""The memory that a training forward pass keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Activations(TorchDispatchMode):
    """The storages that are kept for a backward pass, each counted once.

    Args:
        model: Its parameters and buffers do not count, nor do the copies of them that mixed
            precision makes: they do not grow with the images.

    Attributes:
        bytes: The size of all of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Weak references keep storages from being mistaken for each other: while one is held, no
        # other storage can have its address, though the memory may be given back.
        self._known: dict[int, StorageWeakRef] = {}
        for tensor in chain(model.parameters(), model.buffers()):
            self._know(tensor)
        self._own = set(self._known)
        self.bytes = 0

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor that autograd saves."""
        if self._know(tensor):
            self.bytes += tensor.untyped_storage().nbytes()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, and notice copies of parameters."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and _reference(args[0]).cdata in self._own:
            self._know(out)
            self._own.add(_reference(out).cdata)
        return out

    def _know(self, tensor: Tensor) -> bool:
        """Remember the storage of a tensor; tell whether it was new."""
        reference = _reference(tensor)
        return self._known.setdefault(reference.cdata, reference) is reference


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


@contextmanager
def saved_activations(model: nn.Module) -> Iterator[Activations]:
    """Count what a forward pass in this context keeps for the backward pass.

    Nothing is really kept, so that large models need little memory here; there can be no backward
    pass.

    Args:
        model: The model that will run.

    Yields:
        What is counted.
    """
    activations = Activations(model)
    with activations, saved_tensors_hooks(activations.keep, lambda _: None):
        yield activations
