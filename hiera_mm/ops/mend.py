"""Mends toolbox modules that were imported while mmcv had no operators.

The toolboxes guard many imports of operators:

    try:
        from mmcv.ops import batched_nms
    except ImportError:
        def batched_nms(*args, **kwargs): raise RuntimeError(...)

A module imported too early keeps its fallback for good, and a package whose import failed half-way
leaves submodules without a parent. Both are found in ``sys.modules`` and in the modules' own
source, so there is no list of modules here to keep up to date.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Iterator
from importlib.util import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

TOOLBOXES = {
    'mmcv', 'mmaction', 'mmagic', 'mmdet', 'mmdet3d', 'mmocr', 'mmpose', 'mmpretrain', 'mmrazor',
    'mmrotate', 'mmseg', 'mmselfsup', 'mmtrack', 'mmyolo',
}  # fmt: skip
"""The packages that are mended: mmcv and those that are built on it. No other is looked at."""

_UNBOUND = object()


class Guard(NamedTuple):
    """A guarded import that fell back when its module was imported."""

    module: ModuleType
    tree: ast.Module
    statement: ast.Try

    @property
    def imports(self) -> list[ast.ImportFrom]:
        """What it tries to import."""
        return [node for node in self.statement.body if isinstance(node, ast.ImportFrom)]


def mend() -> None:
    """Bring already imported toolbox modules to the state they have when operators exist.

    Raises:
        ImportError: If a module cannot be mended; the message says what to import first.
    """
    if 'mmcv' not in sys.modules or 'mmcv.ops' in sys.modules:
        return  # nothing of mmcv was imported, or its operators were there in time
    modules = _toolbox_modules()
    guards = [guard for module in modules.values() for guard in _fallbacks(module)]
    orphans = [  # submodules whose package failed to import after them, the outermost first
        name
        for name in sorted(modules)
        if '.' in name and name.rpartition('.')[0] not in sys.modules
    ]
    if not guards and not orphans:
        return
    try:
        importlib.import_module('mmcv.ops')
    except ImportError as error:
        warnings.warn(
            f'mmcv.ops cannot be imported: {error}. Run `python -m hiera_mm.doctor`.', stacklevel=3
        )
        return
    while retried := [guard for guard in guards if _retry(guard)]:
        guards = [guard for guard in guards if guard not in retried]
    for name in orphans:
        _adopt(name)


def _toolbox_modules() -> dict[str, ModuleType]:
    """The imported modules of mmcv and of the toolboxes, by their names."""
    return {
        name: module
        for name, module in sys.modules.items()
        if _is_toolbox(name) and isinstance(module, ModuleType)
    }


def _is_toolbox(name: str) -> bool:
    return name.partition('.')[0] in TOOLBOXES


def _fallbacks(module: ModuleType) -> Iterator[Guard]:
    """Yield the guarded imports at the top of a module that did not succeed."""
    get_source = getattr(module.__spec__.loader, 'get_source', None)
    source = get_source(module.__name__) if get_source else None
    if not source or 'except' not in source:
        return
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Try):
            guard = Guard(module, tree, node)
            if any(_fell_back(statement, module) for statement in guard.imports):
                yield guard


def _fell_back(statement: ast.ImportFrom, module: ModuleType) -> bool:
    """Whether ``from mm... import ...`` left the module with other objects than those named."""
    target = '.' * statement.level + (statement.module or '')
    target = resolve_name(target, module.__package__)
    if not _is_toolbox(target):
        return False
    origin = sys.modules.get(target)
    return origin is None or any(
        getattr(module, alias.asname or alias.name, _UNBOUND)
        is not getattr(origin, alias.name, None)
        for alias in statement.names
    )


def _retry(guard: Guard) -> bool:
    """Run the guarded statements again; True if they succeed this time."""
    module, statement = guard.module, guard.statement
    names = [alias.asname or alias.name for node in guard.imports for alias in node.names]
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    code = ast.Module(body=[*statement.body, *statement.orelse], type_ignores=[])
    try:
        exec(compile(code, module.__file__, 'exec'), vars(module))
    except ImportError:
        return False  # needs something else that is not installed
    defined = {getattr(node, 'name', None) for each in statement.handlers for node in each.body}
    for name, old in before.items():
        new = getattr(module, name)
        if new is not old:
            _replace_in_bases(guard, name, old, new)
            if name in defined:  # not None and not another class, which may stand elsewhere too
                _replace_everywhere(old, new)
    return True


def _replace_in_bases(guard: Guard, name: str, old: Any, new: Any) -> None:
    """Give classes written as ``class X(name)`` the new base."""
    for node in guard.tree.body:
        if isinstance(node, ast.ClassDef) and name in {ast.unparse(base) for base in node.bases}:
            cls = getattr(guard.module, node.name)
            try:
                cls.__bases__ = tuple(new if base is old else base for base in cls.__bases__)
            except TypeError as error:
                raise ImportError(
                    f'{guard.module.__name__} was imported before hiera_mm and its class '
                    f'{node.name} cannot be mended: start again and import hiera_mm first'
                ) from error


def _replace_everywhere(old: Any, new: Any) -> None:
    """Replace a fallback that other toolbox modules imported from its module."""
    for module in _toolbox_modules().values():
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


def _adopt(name: str) -> None:
    """Import the package of an orphan again and make the orphan its attribute."""
    package, _, child = name.rpartition('.')
    try:
        parent = importlib.import_module(package)
    except ImportError:
        return  # still cannot be imported, and says so to whoever asks for it
    if child not in vars(parent):  # else the package bound another thing to that name itself
        setattr(parent, child, sys.modules[name])
