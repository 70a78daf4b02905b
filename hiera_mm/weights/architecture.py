"""Which Hiera do weights belong to?"""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import CheckpointError
from ..network import VARIANTS, HieraTrunk, Variant
from ..network.layout import MASK_UNIT
from ..network.position import Absolute, AbsoluteWin, PositionEmbedding, WindowAligned, kind_of
from ..network.variants import NUM_STAGES, name_of_weights
from .families import Weights


def position_of(weights: Weights, path: object) -> PositionEmbedding:
    """Return the position embedding that a file's parameters belong to."""
    learnt = weights.tensors.get('pos_embed')
    window = weights.tensors.get('pos_embed_window')
    if learnt is not None and learnt.ndim == 4 and window is not None:
        # Nothing in the file tells how the global part is resized. timm's abswin models do it their
        # way, and are still these models where the file was written by us.
        antialias = weights.family.name == 'timm' or any(
            isinstance(variant.pos_embed, AbsoluteWin)
            and variant.pos_embed.antialias
            and not differences(weights, variant)
            for variant in VARIANTS.values()
        )
        return AbsoluteWin(tuple(learnt.shape[2:]), antialias)
    if learnt is not None and learnt.ndim == 3 and window is None:
        side = math.isqrt(learnt.shape[1])
        if side**2 == learnt.shape[1]:
            # The same parameter under another name: how it is resized is for the network to say.
            return (Absolute if side % MASK_UNIT else WindowAligned)((side, side))
    shapes = {name: tuple(t.shape) for name, t in weights.tensors.items() if 'pos_embed' in name}
    raise CheckpointError(
        f'{path} has no position embedding that hiera_mm knows: expected (1, tokens, channels) '
        'of a square image, or a window part (1, channels, 8, 8) with a global part '
        f'(1, channels, rows, columns); found {shapes or "none"}.'
    )


def variants_of(weights: Weights, path: object) -> list[str]:
    """Return the names of the published Hieras that weights may belong to.

    Heads and windows do not show in weights; they follow from the sizes, the family and the
    position embedding, and that is why there can be more than one answer, or none.
    """
    kind = kind_of(position_of(weights, path))
    return [
        name
        for name, variant in VARIANTS.items()
        if not differences(weights, variant)
        and kind_of(variant.pos_embed) == kind
        and weights.family.windowed in (None, is_windowed(variant))
        and name == name_of_weights(name)
    ]


def differences(weights: Weights, variant: Variant) -> list[str]:
    """Return in what weights differ from a variant, as far as the weights show it."""
    tensors = weights.tensors
    found = []
    dim = tensors['patch_embed.proj.weight'].shape[0]
    if dim != variant.embed_dim:
        found.append(f'embed_dim {dim} instead of {variant.embed_dim}')
    # A file of ours may lack the last stages, and a network may do without them.
    stages = len(weights.depths)
    if weights.depths != variant.depths[:stages]:
        found.append(f'depths {weights.depths} instead of {variant.depths}')
    if ('blocks.0.ls1.gamma' in tensors) != variant.layer_scale:
        found.append('LayerScale' if variant.layer_scale is False else 'no LayerScale')
    entry = weights.depths[0]
    shortcut = 'proj' if f'blocks.{entry}.proj.weight' in tensors else 'pool'
    if stages > 1 and shortcut != variant.shortcut:
        found.append(f'shortcut {shortcut!r} instead of {variant.shortcut!r}')
    return found


def resolve(weights: Weights, path: object) -> Variant:
    """Return the variant of weights, for ``arch='auto'``, if they leave one possibility alone."""
    names = variants_of(weights, path)
    guess = ' or '.join(names)
    if len(names) == 1:
        variant = VARIANTS[names[0]]
        if not (weights.prefix and weights.family.name == 'ours' and is_windowed(variant)):
            return replace(variant, pos_embed=position_of(weights, path))
        # In a training of ours the same parameters may have been used in other windows.
        guess += ", or a network with other windows and pos_embed='absolute_win'"
    raise CheckpointError(
        f"arch='auto' cannot tell which Hiera {path} holds: {describe(weights)} "
        f'{"could be " + guess if names else "is no published one"}. Heads and windows do not show '
        'in weights, so say what it is with arch=...'
    )


def require_same(weights: Weights, network: HieraTrunk, path: object) -> str | None:
    """Make sure that weights are those of a network's architecture.

    A network may attend in other windows than the weights were trained with: then a remark that
    says so is returned.
    """
    variant = network.variant
    names = variants_of(weights, path)
    found = differences(weights, variant)
    if found:
        raise CheckpointError(
            f'{path}: this is {" or ".join(names) or describe(weights)}, and the config says '
            f'arch={name_of(variant) or "one of your own"!r} ({", ".join(found)}). Nothing was '
            f'loaded. Set arch={names[0] if len(names) == 1 else "auto"!r}, or use other weights.'
        )
    windowed = weights.family.windowed
    if windowed not in (None, is_windowed(variant)):
        return (
            f"the weights were trained {'with' if windowed else 'without'} SAM 2's windows "
            f'({" or ".join(names) or "no published Hiera"}); this network has window_sizes '
            f'{variant.window_sizes} and global_blocks {variant.global_blocks}'
        )
    return None


def name_of(variant: Variant) -> str | None:
    """Return the name of a published Hiera, or None for an architecture of the user's own.

    The position embedding does not count: it is chosen apart from the rest. Nor does the query
    pooling that a pretraining leaves out.
    """
    variant = replace(variant, q_pool=NUM_STAGES - 1)
    names = [
        name
        for name, published in VARIANTS.items()
        if replace(published, pos_embed=variant.pos_embed) == variant
    ]
    # large_windowed and sam2_large differ in nothing else: then it decides.
    return max(names, key=lambda name: VARIANTS[name].pos_embed == variant.pos_embed, default=None)


def describe(weights: Weights) -> str:
    """Say in a few words what network weights are of."""
    scale = ', LayerScale' if 'blocks.0.ls1.gamma' in weights.tensors else ''
    dim = weights.tensors['patch_embed.proj.weight'].shape[0]
    return f'a Hiera of embed_dim {dim}, depths {weights.depths}{scale}'


def is_windowed(variant: Variant) -> bool:
    """Tell whether a variant has SAM 2's windows: all stages windowed, some blocks global."""
    return 0 not in variant.window_sizes
