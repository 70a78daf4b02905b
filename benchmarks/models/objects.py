"""The same objects for every detector, so that all have the same work after their networks.

An untrained detector sees either nothing or a thousand things everywhere, and how large they are
is chance; but NMS takes as long as there are candidates, and drawing masks as long as these are
large. So what the box heads have computed is replaced by numbers that look like those of a trained
detector: few confident scores, everything else background, and boxes near the anchors. They are
drawn from a fixed seed, and depend on the shapes of the outputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

BACKGROUND, FAINT = -5.0, 0.1  # logits of most scores, and how far they scatter around that
BACKGROUND_OF_SOFTMAX = 0.0  # where it has a score of its own
LEAST, MOST = -1.0, 2.0  # logits of the objects' scores


def show_objects(model: nn.Module, count: int) -> None:
    """Let the box heads of a detector see a number of objects in whatever image it gets.

    It is that many confident scores for each box head, at most; after NMS there may be fewer. The
    proposals of a two-stage detector are drawn as well.
    """
    for head in _box_heads(model):
        head.register_forward_hook(_Replace(count))


def _box_heads(model: nn.Module) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        parent, _, last = name.rpartition('.')
        if last in ('rpn_head', 'bbox_head') and parent in ('', 'roi_head'):
            # The heads of a cascade are in a list.
            yield from module if isinstance(module, nn.ModuleList) else (module,)


class _Replace:
    """A hook that replaces the outputs of a box head: scores first, then all others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._drawn: dict[Any, list[Tensor]] = {}

    def __call__(self, head: nn.Module, inputs: Any, outputs: Any) -> Any:
        leaves, structure = tree_flatten(outputs)
        places = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
        tensors = [leaves[i] for i in places]
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._drawn:  # only once, as it would take time in every pass
            scores = sum(map(_is_float, tree_flatten(outputs[0])[0]))
            self._drawn[key] = [
                *_draw_scores(tensors[:scores], self._count, _background_column(head)),
                *_draw_others(tensors[scores:]),
            ]
        for i, new in zip(places, self._drawn[key], strict=True):
            leaves[i] = new
        return tree_unflatten(leaves, structure)


def _background_column(head: nn.Module) -> int | None:
    """Return the place of the background among the scores, if they are compared by softmax."""
    loss = getattr(head, 'loss_cls', None)
    return getattr(head, 'num_classes', None) if not getattr(loss, 'use_sigmoid', True) else None


def _draw_scores(levels: list[Tensor], count: int, background: int | None) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    drawn = [BACKGROUND + FAINT * torch.randn(level.shape, generator=draw) for level in levels]
    for level in drawn:
        if background is not None and level.shape[-1] == background + 1:
            level[..., background] = BACKGROUND_OF_SOFTMAX
    sizes = [level.numel() for level in levels]
    logits = torch.cat([level.flatten() for level in drawn])
    places = (logits < BACKGROUND_OF_SOFTMAX).nonzero()[:, 0]
    places = places[torch.randperm(len(places), generator=draw)[:count]]
    logits[places] = LEAST + (MOST - LEAST) * torch.rand(len(places), generator=draw)
    return [
        new.view(old.shape).to(old) for new, old in zip(logits.split(sizes), levels, strict=True)
    ]


def _draw_others(outputs: list[Tensor]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    # What is never negative shifts no anchor; mostly it is distances to the sides of a box, and
    # those that were computed first will do.
    return [
        output
        if (output >= 0).all()
        else FAINT * torch.randn(output.shape, generator=draw).to(output)
        for output in outputs
    ]


def _is_float(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point()
