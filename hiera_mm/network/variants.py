"""The Hieras that have a name, as data.

The six sizes of the release (arXiv 2306.00989, Table 2), three of them once more with windows for
detection, SAM 2's image encoders (arXiv 2408.00714, Table 12), and the Hieras that timm trained
with absolute win embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace

from ..errors import did_you_mean
from .layout import MASK_UNIT
from .position import AbsoluteWin, PositionEmbedding, WindowAligned, make_position_embedding

NUM_STAGES = 4


def _integers(name: str, value: object, length: int | None = None) -> tuple[int, ...]:
    """Return ``value`` as a tuple, if it is a sequence of ``length`` whole numbers."""
    what = f'{length} integers, one for each stage' if length else 'integers'
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f'{name} must be a sequence of {what}; got {value!r}')
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise TypeError(f'{name} must be a sequence of {what}; got {value!r}')
    if length and len(value) != length:
        raise ValueError(f'{name} must be a sequence of {what}; got {value!r}')
    return tuple(value)


@dataclass(frozen=True)
class Variant:
    """What tells one Hiera from another.

    Channels and heads double at each of the four stages; everything else is the same for all.

    Attributes:
        embed_dim: Channels of the first stage.
        num_heads: Attention heads of the first stage.
        depths: Number of blocks of each of the four stages.
        window_sizes: Side of the attention windows of each stage, in tokens of that stage; 0 for
            global attention. Windows are made of whole mask units, which measure 8, 4, 2 and 1
            tokens. The first block of a later stage still uses the windows of the stage before
            it: its queries are pooled inside them.
        global_blocks: Blocks, counted from 0 over all stages, that attend globally although
            their stage has windows.
        pos_embed: Its position embedding. Those published with an absolute map keep the map's
            windows aligned at other sizes; docs/resolution.md says why.
        layer_scale: Whether both branches of a block end in a learnt factor for each channel.
        shortcut: What the first block of a later stage adds its attention to: ``'proj'`` for a
            projection of its normalised tokens, max-pooled; ``'pool'`` for the tokens themselves,
            max-pooled and mean-pooled side by side.
        q_pool: How many stages, after the first, begin with query pooling. Masked autoencoders
            leave out that of the last one (Hiera, section 3).

    Raises:
        TypeError: If a field has a wrong type.
        ValueError: If a field has an impossible value.
    """

    embed_dim: int
    num_heads: int
    depths: tuple[int, ...]
    window_sizes: tuple[int, ...] = (8, 4, 0, 0)
    global_blocks: tuple[int, ...] = ()
    pos_embed: PositionEmbedding = field(default_factory=WindowAligned)
    layer_scale: bool = False
    shortcut: str = 'proj'
    q_pool: int = NUM_STAGES - 1

    def __post_init__(self) -> None:
        for name in ('depths', 'window_sizes'):
            object.__setattr__(self, name, _integers(name, getattr(self, name), NUM_STAGES))
        object.__setattr__(self, 'global_blocks', _integers('global_blocks', self.global_blocks))
        object.__setattr__(self, 'pos_embed', make_position_embedding(self.pos_embed))
        for name, value in (
            ('embed_dim', self.embed_dim),
            ('num_heads', self.num_heads),
            *(('every entry of depths', depth) for depth in self.depths),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f'{name} must be an integer, got {value!r}')
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f'embed_dim ({self.embed_dim}) must be a multiple of num_heads ({self.num_heads})'
            )
        if self.q_pool not in range(NUM_STAGES):
            raise ValueError(f'q_pool must be 0 to {NUM_STAGES - 1}, got {self.q_pool!r}')
        for stage, size in enumerate(self.window_sizes):
            unit = self.unit_side(stage)
            if size < 0 or size % unit:
                raise ValueError(
                    f'the windows of stage {stage} must measure 0 (global attention) or a multiple '
                    f'of {unit} tokens, the side of a mask unit there; got {size} in window_sizes '
                    f'{self.window_sizes}'
                )
        blocks = sum(self.depths)
        for index in self.global_blocks:
            if not 0 <= index < blocks:
                raise ValueError(
                    f'global_blocks names block {index}; with depths {self.depths} the blocks are '
                    f'0 to {blocks - 1}'
                )
        if self.shortcut not in ('proj', 'pool'):
            raise ValueError(f"shortcut must be 'proj' or 'pool', got {self.shortcut!r}")
        if not isinstance(self.layer_scale, bool):
            raise TypeError(f'layer_scale must be True or False, got {self.layer_scale!r}')

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(NUM_STAGES))

    def unit_side(self, stage: int) -> int:
        """Return the side of a mask unit in tokens of a stage."""
        return MASK_UNIT >> min(stage, self.q_pool)

    def window_units(self, stage: int) -> int:
        """Return the side of a stage's windows in mask units; 0 for global attention."""
        return self.window_sizes[stage] // self.unit_side(stage)


_BASE = Variant(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3))
_BASE_PLUS = Variant(embed_dim=112, num_heads=2, depths=(2, 3, 16, 3))
_LARGE = Variant(embed_dim=144, num_heads=2, depths=(2, 6, 36, 4))

# Windows of 256 pixels a side in the last two stages too, but for three blocks, those of SAM 2's
# networks of these depths. The paper does not say so; it is our reading of its Table 10. This
# layout has the FLOPs given there. With global attention in all blocks of these stages a network
# needs a quarter to a half more (docs/cost.md).
_WINDOWS = (8, 4, 16, 8)
_WINDOWED = '_windowed'

VARIANTS: dict[str, Variant] = {
    'tiny': Variant(embed_dim=96, num_heads=1, depths=(1, 2, 7, 2)),
    'small': Variant(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2)),
    'base': _BASE,
    'base_plus': _BASE_PLUS,
    'large': _LARGE,
    'huge': Variant(embed_dim=256, num_heads=4, depths=(2, 6, 36, 4)),
    f'base{_WINDOWED}': replace(_BASE, window_sizes=_WINDOWS, global_blocks=(12, 16, 20)),
    f'base_plus{_WINDOWED}': replace(_BASE_PLUS, window_sizes=_WINDOWS, global_blocks=(12, 16, 20)),
    f'large{_WINDOWED}': replace(_LARGE, window_sizes=_WINDOWS, global_blocks=(23, 33, 43)),
    'sam2_tiny': Variant(
        embed_dim=96,
        num_heads=1,
        depths=(1, 2, 7, 2),
        window_sizes=(8, 4, 14, 7),
        global_blocks=(5, 7, 9),
        pos_embed=AbsoluteWin((7, 7)),
    ),
    'sam2_small': Variant(
        embed_dim=96,
        num_heads=1,
        depths=(1, 2, 11, 2),
        window_sizes=(8, 4, 14, 7),
        global_blocks=(7, 10, 13),
        pos_embed=AbsoluteWin((7, 7)),
    ),
    'sam2_base_plus': Variant(
        embed_dim=112,
        num_heads=2,
        depths=(2, 3, 16, 3),
        window_sizes=(8, 4, 14, 7),
        global_blocks=(12, 16, 20),
        pos_embed=AbsoluteWin((14, 14)),
    ),
    'sam2_large': Variant(
        embed_dim=144,
        num_heads=2,
        depths=(2, 6, 36, 4),
        window_sizes=(8, 4, 16, 8),
        global_blocks=(23, 33, 43),
        pos_embed=AbsoluteWin((7, 7)),
    ),
    'hieradet_small': Variant(
        embed_dim=96,
        num_heads=1,
        depths=(1, 2, 11, 2),
        window_sizes=(8, 4, 16, 8),
        global_blocks=(7, 10, 13),
        pos_embed=AbsoluteWin((7, 7)),
        layer_scale=True,
    ),
    'small_abswin': Variant(
        embed_dim=96,
        num_heads=1,
        depths=(1, 2, 11, 2),
        pos_embed=AbsoluteWin((16, 16), antialias=True),
        layer_scale=True,
        shortcut='pool',
    ),
    'base_abswin': Variant(
        embed_dim=96,
        num_heads=1,
        depths=(2, 3, 16, 3),
        pos_embed=AbsoluteWin((14, 14), antialias=True),
        layer_scale=True,
    ),
}


def name_of_weights(arch: str) -> str:
    """Return the name of the network whose published weights an ``arch`` takes, mostly its own."""
    return arch.removesuffix(_WINDOWED)


def resolve_variant(arch: str | Mapping[str, object] | Variant) -> Variant:
    """Find the variant a user asked for.

    Args:
        arch: The name of a published Hiera, or the fields of :class:`Variant` for one of the
            user's own; those with a default may be left out.

    Returns:
        The variant.

    Raises:
        TypeError: If ``arch`` is neither a name nor a mapping, or a field has a wrong type.
        ValueError: If the name or a field is unknown, a field is missing or its value impossible.
    """
    if isinstance(arch, Variant):
        return arch
    if isinstance(arch, str):
        if arch not in VARIANTS:
            raise ValueError(
                f'there is no Hiera called {arch!r}{did_you_mean(arch, VARIANTS)}; '
                f'known ones: {", ".join(VARIANTS)}'
            )
        return VARIANTS[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(
            f'arch must be a name ({", ".join(VARIANTS)}) or a dict of embed_dim, num_heads '
            f'and depths, got {type(arch).__name__}'
        )
    names = [f.name for f in fields(Variant)]
    for key in arch:
        if key not in names:
            raise ValueError(
                f'unknown field {key!r} in arch{did_you_mean(str(key), names)}; '
                f'the fields are {", ".join(names)}'
            )
    missing = [
        f.name
        for f in fields(Variant)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in arch
    ]
    if missing:
        raise ValueError(f'arch lacks {", ".join(missing)}; the fields are {", ".join(names)}')
    return Variant(**arch)  # type: ignore[arg-type]  # checked by Variant itself
