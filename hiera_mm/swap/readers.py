"""Whoever reads the features has to know their new channels, and which outputs are left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..trial.configs import SEPARATE, Keys

# Parts of a model that read no features.
_NO_READERS = {'backbone', 'data_preprocessor', 'train_cfg', 'test_cfg', 'init_cfg', *SEPARATE}


def channel_changes(
    owner: Mapping[str, Any], old: Sequence[int], new: Sequence[int]
) -> dict[Keys, Any]:
    """Find what has to change in a model when its backbone gives other channels.

    Where there is a neck, it alone reads the backbone; else all heads may. In a reader, the number
    or list under a key that ends in ``in_channels`` tells the channels that come in. A head of
    mmseg says with ``in_index`` which outputs it reads; elsewhere the old channels tell which ones
    are meant.

    Args:
        owner: The config of the model, or of the part of it, that has the backbone. Without its
            ``neck``, the changes are those of the heads.
        old: Channels of the old outputs.
        new: Those of the new ones.

    Returns:
        New values by their path in ``owner``.
    """
    changes: dict[Keys, Any] = {}
    readers = list(_readers(owner))
    # Where heads say which output they read, numbers of those that do not are of inner parts.
    indexed = any(node.get('in_index') is not None for _, node in readers)
    for path, node in readers:
        for key, value in node.items():
            if indexed and node.get('in_index') is None and isinstance(value, int):
                continue
            if key.endswith('in_channels'):
                changed = _changed(node, key, value, list(old), list(new))
                if changed is not None and changed != value:
                    changes[(*path, key)] = changed
    return changes


def output_changes(
    owner: Mapping[str, Any], channels: Sequence[int], unread: Sequence[int]
) -> dict[Keys, Any]:
    """Find what has to change in the readers when outputs are left out that nobody uses.

    Args:
        owner: The config of the model, or of the part of it, that has the backbone.
        channels: Channels of the outputs that the readers were told of.
        unread: Outputs to leave out, by place.

    Returns:
        New values by their path in ``owner``.
    """
    kept = [place for place in range(len(channels)) if place not in unread]
    changes: dict[Keys, Any] = {}
    for path, node in _readers(owner):
        for key, value in node.items():
            is_list = isinstance(value, list | tuple)
            if key == 'start_level' and isinstance(value, int) and value > 0:
                changes[(*path, key)] = value - sum(place < value for place in unread)
            elif key == 'in_index' and value is not None:
                places = [place % len(channels) for place in (value if is_list else [value])]
                if all(place in kept for place in places):
                    moved = [kept.index(place) for place in places]
                    changes[(*path, key)] = type(value)(moved) if is_list else moved[0]
            elif (
                key.endswith('in_channels')
                and is_list
                and list(value) == list(channels)
                and node.get('in_index') is None
            ):
                changes[(*path, key)] = type(value)(channels[place] for place in kept)
    return changes


def _readers(owner: Mapping[str, Any]) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield every dict inside the parts of a model that read its backbone."""
    neck = owner.get('neck')
    if isinstance(neck, list | tuple) and neck:
        yield from _dicts(neck[0], ('neck', 0))
    elif neck:
        yield from _dicts(neck, ('neck',))
    else:
        for key, value in owner.items():
            if key not in _NO_READERS:
                yield from _dicts(value, (key,))


def _dicts(node: Any, path: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            if key not in _NO_READERS:
                yield from _dicts(value, (*path, key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _dicts(value, (*path, index))


def _changed(node: Mapping[str, Any], key: str, value: Any, old: list[int], new: list[int]) -> Any:
    """Return the new value of one key, or None if it does not speak of the backbone's channels."""
    index = node.get('in_index')
    if key == 'in_channels' and index is not None:
        places = [index] if isinstance(index, int) else list(index)
        values = [value] if isinstance(value, int) else list(value)
        if [old[place] for place in places] == values:
            changed = [new[place] for place in places]
            return changed[0] if isinstance(value, int) else type(value)(changed)
    if isinstance(value, int):
        # Of several outputs alike the last is the one that is read by default.
        return new[len(old) - 1 - old[::-1].index(value)] if value in old else None
    if not isinstance(value, list | tuple) or not value:
        return None
    values = list(value)
    for start in range(len(old) - len(values), -1, -1):
        part = slice(start, start + len(values))
        if old[part] == values:
            return type(value)(new[part])
        if old[part] == values[::-1]:
            return type(value)(new[part][::-1])
    return None
