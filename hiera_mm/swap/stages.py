"""Which stages of Hiera take the place of a backbone's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..network.trunk import STRIDES
from ..network.variants import NUM_STAGES
from .probe import Feature

DEEP_STRIDE = 16  # a last output finer than this comes from a dilated backbone, or a decoder


def choose_stages(
    features: Sequence[Feature], backbone: Mapping[str, Any], main: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose a stage and a stride for each output of the old backbone.

    Backbones of four stages number them as Hiera does, and the same numbers are taken. Other
    outputs of growing stride are met by the stage of that stride. Where strides repeat, or the
    last one is fine, they do not tell how deep an output is: then the last output is the last
    stage, the one before it the stage before, and so on, each resized to the stride that is
    expected; and the one output that the main head reads is the last stage wherever it stands, as
    networks of several branches give it first. No output gets finer than stride 4: what Hiera knows
    of smaller things is in there.

    Args:
        features: What the old backbone gives.
        backbone: Its config.
        main: The output that the main head reads, if it reads one alone.

    Returns:
        The stage of each output, and its stride.
    """
    strides = [feature.stride for feature in features]
    asked = backbone.get('out_indices')
    asked = [asked] if isinstance(asked, int) else asked
    if (
        asked is not None
        and len(asked) == len(features)
        and all(0 <= index < NUM_STAGES for index in asked)
        and strides[-1] >= STRIDES[min(asked[-1], 1)]
    ):
        stages = list(asked)
    elif len(strides) > 1 and strides[-1] >= DEEP_STRIDE and _rising(strides):
        stages = [_of_stride(stride) for stride in strides]
    else:
        stages = [max(0, NUM_STAGES - len(strides) + place) for place in range(len(strides))]
    if main is not None and not _rising(strides):
        stages[main] = NUM_STAGES - 1
    return tuple(stages), tuple(max(STRIDES[0], stride) for stride in strides)


def _of_stride(stride: int) -> int:
    """Return the last stage of at most a stride, or the first of all."""
    return max([0, *(stage for stage, own in enumerate(STRIDES) if own <= stride)])


def _rising(values: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(values))
