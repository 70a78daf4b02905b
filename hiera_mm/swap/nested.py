"""Configs as what they are: dicts and lists inside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]
"""Where something stands in a config: keys, and places in lists."""


def at(node: Any, path: Sequence[str | int]) -> Any:
    """Return what stands at a path."""
    for step in path:
        node = node[step]
    return node


def put(node: Any, changes: Mapping[Path, Any]) -> None:
    """Put new values at paths of a config, in place."""
    for (*way, last), value in changes.items():
        at(node, way)[last] = copied(value)


def copied(node: Any) -> Any:
    """Return a config with containers of its own; what they hold may not be copied (modules)."""
    if isinstance(node, Mapping):
        return {key: copied(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(copied(value) for value in node)
    return node


def type_name(kind: object) -> str:
    """Return the name of a type that a config may give as a class or with its module."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]
