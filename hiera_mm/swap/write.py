"""A short config that builds on another: only what differs, as a person would write it."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.launch import make_folder
from ..errors import ConfigError
from ..trial.configs import TOOLBOXES, Keys, configs_root

WIDTH = 100
INDENT = '    '

# The part of a config's name that tells its backbone, in the toolboxes' scheme.
_BACKBONE_IN_NAME = re.compile(
    r'(?<=_)(?:(?:r|x|s|d|hr)\d+|swin|res|regnet|hrnet|pvt|vit|mit|convnext|csp)[a-z0-9.-]*(?=_)'
)


def short_config(
    base: str | None,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    remarks: Mapping[Keys, str],
    head: str,
    *,
    lazy: bool = False,
) -> str:
    """Return a config that turns one config into another.

    Args:
        base: What it builds on: a path as ``_base_`` names it, or a module as it is imported;
            None for nothing.
        old: The complete config behind ``base``.
        new: The complete config to be.
        remarks: Comments by path.
        head: A comment for the top.
        lazy: Whether both are in the pure-Python style.
    """
    if lazy:
        paragraphs = [
            [*_comment(head), 'from mmengine.config import read_base'],
            ['with read_base():', f'{INDENT}from {base} import *'],
            [
                # A statement would not do: in a config mmengine makes them lazy.
                *_comment('Registers Hiera at once; import statements are lazy in a config.'),
                "__import__('hiera_mm')",
            ],
        ]
    else:
        paragraphs = [[*_comment(head), *([] if base is None else [f'_base_ = {base!r}'])]]
    for key, value in differences(old, new).items():
        merged = lazy and isinstance(value, dict) and key in old
        before, after = (f'{key}.merge(', ')') if merged else (f'{key} = ', '')
        literal = _literal(value, (key,), remarks, WIDTH - len(before + after))
        paragraphs.append([*_comment(remarks.get((key,))), before + literal + after])
    return '\n\n'.join('\n'.join(lines) for lines in paragraphs) + '\n'


def check_out(out: str | os.PathLike, *, force: bool) -> Path:
    """Check that a config can be written to a place.

    Raises:
        ConfigError: If there is a file already, or its folder cannot be written to.
    """
    out = Path(out).absolute()
    if out.suffix != '.py':
        raise ConfigError(f'{out} is no name for a config: it has to end in .py')
    if out.exists() and not force:
        raise ConfigError(f'{out} exists. Choose another --out, or give --force to replace it.')
    make_folder(out.parent)
    return out


def default_out(original: Path, arch: str) -> Path:
    """Return a name for a swapped config, in the current folder."""
    hiera = f'hiera-{arch.replace("_", "-")}'
    name, count = _BACKBONE_IN_NAME.subn(hiera, original.stem, count=1)
    return Path(f'{name}.py' if count else f'{original.stem}_{hiera}.py')


def base_path(original: Path, out: Path) -> str:
    """Return how a config at one place names another that it builds on."""
    if package_of(original) is not None:
        return str(original)
    return Path(os.path.relpath(original, out.parent)).as_posix()


def base_module(original: Path, out: Path) -> str:
    """Return the module under which a pure-Python config imports another that it builds on."""
    package = package_of(original)
    if package is not None:
        return '.'.join(original.relative_to(package.parent).with_suffix('').parts)
    steps = Path(os.path.relpath(original.with_suffix(''), out.parent)).parts
    up = sum(step == '..' for step in steps)
    return '.' * (up + 1) + '.'.join(steps[up:])


def package_of(file: Path) -> Path | None:
    """Return the installed toolbox that a config is part of, if it is."""
    for toolbox in TOOLBOXES:
        try:
            package = configs_root(toolbox).parents[1]
        except ImportError:
            continue
        if package in file.parents:
            return package
    return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be merged into one config to make another of it.

    A dict that lost keys, or whose type changed, is given whole and with ``_delete_``; lists and
    tuples are given whole, as merging has no way into them.
    """
    found = {}
    for key, value in new.items():
        if key in old and old[key] == value and isinstance(old[key], type(value)):
            continue
        before = old.get(key)
        if not isinstance(value, Mapping) or key not in old:
            found[key] = value
        elif (
            isinstance(before, Mapping)
            and set(before) <= set(value)
            and before.get('type') == value.get('type')
        ):
            found[key] = differences(before, value)
        else:
            found[key] = {'_delete_': True, **value}
    return found


def _literal(value: Any, path: Keys, remarks: Mapping[Keys, str], room: float) -> str:
    """Return a value as Python text: on one line where it fits, else broken up.

    Args:
        value: Dicts, lists, tuples, and what repr can show.
        path: Where it stands; its length tells the indentation.
        remarks: Comments by path.
        room: Characters left on that line.
    """
    if not isinstance(value, Mapping | list | tuple):
        return repr(value)
    commented = False
    items = list(enumerate(value))
    heads = [''] * len(items)
    opening, closing = '[]' if isinstance(value, list) else '()'
    if isinstance(value, Mapping):
        commented = any(len(at) > len(path) and at[: len(path)] == path for at in remarks)
        items = list(value.items())
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            heads, opening, closing = [f'{key}=' for key in value], 'dict(', ')'
        else:
            heads, opening, closing = [f'{key!r}: ' for key in value], '{', '}'
    pairs = list(zip(heads, items, strict=True))
    flat = ', '.join(head + _literal(item, (), {}, math.inf) for head, (_, item) in pairs)
    if isinstance(value, tuple) and len(value) == 1:
        flat += ','
    if not items or (len(opening + flat + closing) <= room and not commented):
        return opening + flat + closing
    indent = INDENT * len(path)
    lines = [opening]
    for head, (key, item) in pairs:
        inner = (*path, key)
        lines += _comment(remarks.get(inner), indent)
        rest = WIDTH - len(indent + head) - 1
        lines.append(f'{indent}{head}{_literal(item, inner, remarks, rest)},')
    return '\n'.join([*lines, f'{INDENT * (len(path) - 1)}{closing}'])


def _comment(text: str | None, indent: str = '') -> list[str]:
    return [
        f'{indent}# {line}'
        for paragraph in (text or '').splitlines()
        for line in textwrap.wrap(
            paragraph, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
        )
    ]
