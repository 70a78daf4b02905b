"""The published sizes of Hiera (arXiv 2306.00989, Table 2), as data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

NUM_STAGES = 4


@dataclass(frozen=True)
class Variant:
    """What tells one Hiera from another.

    Channels and heads double at each of the four stages; everything else is the same for all.

    Attributes:
        embed_dim: Channels of the first stage.
        num_heads: Attention heads of the first stage.
        depths: Number of blocks of each of the four stages.

    Raises:
        TypeError: If a field is not a whole number (or, for ``depths``, a sequence of them).
        ValueError: If a field is not positive, ``depths`` has not four entries, or ``embed_dim``
            cannot be split into ``num_heads`` heads.
    """

    embed_dim: int
    num_heads: int
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.depths, str) or not isinstance(self.depths, Sequence):
            raise TypeError(
                f'depths must be a sequence of {NUM_STAGES} integers, got {self.depths!r}'
            )
        object.__setattr__(self, 'depths', tuple(self.depths))
        for name, value in (
            ('embed_dim', self.embed_dim),
            ('num_heads', self.num_heads),
            *(('every entry of depths', depth) for depth in self.depths),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f'{name} must be an integer, got {value!r}')
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        if len(self.depths) != NUM_STAGES:
            raise ValueError(
                f'depths must name the blocks of {NUM_STAGES} stages, got {self.depths}'
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f'embed_dim ({self.embed_dim}) must be a multiple of num_heads ({self.num_heads})'
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(NUM_STAGES))


VARIANTS: dict[str, Variant] = {
    'tiny': Variant(embed_dim=96, num_heads=1, depths=(1, 2, 7, 2)),
    'small': Variant(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2)),
    'base': Variant(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3)),
    'base_plus': Variant(embed_dim=112, num_heads=2, depths=(2, 3, 16, 3)),
    'large': Variant(embed_dim=144, num_heads=2, depths=(2, 6, 36, 4)),
    'huge': Variant(embed_dim=256, num_heads=4, depths=(2, 6, 36, 4)),
}


def resolve_variant(arch: str | Mapping[str, object] | Variant) -> Variant:
    """Find the variant a user asked for.

    Args:
        arch: The name of a published size, or the fields of :class:`Variant` for one of
            the user's own.

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
                f'known sizes: {", ".join(VARIANTS)}'
            )
        return VARIANTS[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(
            f'arch must be a name ({", ".join(VARIANTS)}) or a dict of embed_dim, num_heads '
            f'and depths, got {type(arch).__name__}'
        )
    names = [field.name for field in fields(Variant)]
    for key in arch:
        if key not in names:
            raise ValueError(
                f'unknown field {key!r} in arch{did_you_mean(str(key), names)}; '
                f'the fields are {", ".join(names)}'
            )
    missing = [name for name in names if name not in arch]
    if missing:
        raise ValueError(f'arch lacks {", ".join(missing)}; the fields are {", ".join(names)}')
    return Variant(**arch)  # type: ignore[arg-type]  # checked by Variant itself


def did_you_mean(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Return ``'; did you mean X?'`` for the known name nearest to ``word``, else ``''``."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f'; did you mean {near[0]!r}?' if near else ''
