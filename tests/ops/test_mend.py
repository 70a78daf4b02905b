"""Importing hiera_mm after the toolboxes must leave what importing it before them leaves."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_mm import ops
from hiera_mm.ops import Finder

# A small mmcv, and a toolbox, named like a real one, with every kind of damage that too early an
# import does. The last module is a user's own.
FILES = {
    'mmcv/__init__.py': '',
    'mmcv/ops/__init__.py': """
        import importlib
        _ext = importlib.import_module('mmcv._ext')
        nms = _ext.nms
        class PointHead: pass
    """,
    'mmpose/__init__.py': '',
    'mmpose/guarded.py': """
        try:
            from mmcv.ops import nms
            has_nms = True
        except ImportError:
            has_nms = False
            def nms(): raise RuntimeError('no operators')
        try:
            from .needs_a_package import anything
        except ImportError:
            anything = None
    """,
    'mmpose/optional.py': """
        try:
            from mmcv.ops import PointHead as Head
        except ModuleNotFoundError:
            Head = None
    """,
    'mmpose/needs_a_package.py': 'import a_package_that_nobody_has\nanything = 1',
    'mmpose/reexports.py': 'from mmpose.guarded import nms as suppress',
    'mmpose/heads.py': """
        class Plain: pass
        try:
            from mmcv.ops import PointHead
        except ImportError:
            PointHead = Plain
        class Mask2FormerHead(PointHead): pass
        class Other(Plain): pass
    """,
    'mmpose/models/__init__.py': """
        from .early import early
        from .late import late
    """,
    'mmpose/models/early.py': 'def early(): pass',
    'mmpose/models/other.py': '',
    'mmpose/models/late.py': """
        from . import other
        from mmcv.ops import nms as late
    """,
    'mmpose/stubborn.py': """
        try:
            from mmcv.ops import PointHead
        except ImportError:
            PointHead = int
        class Counter(PointHead): pass
    """,
    'mmine.py': """
        try:
            from mmcv.ops import nms
        except ImportError:
            nms = None
    """,
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Import a module of the toy toolbox; ``toy('models')``. No finder is installed."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text('\n'.join(line.removeprefix(' ' * 8) for line in lines))
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith('mm')}
    monkeypatch.syspath_prepend(tmp_path)
    others = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    monkeypatch.setattr(sys, 'meta_path', others)
    importlib.import_module('mmcv')
    yield lambda name: importlib.import_module(f'mmpose.{name}')
    for name in [name for name in sys.modules if name.startswith('mm')]:
        del sys.modules[name]
    sys.modules.update(saved)


def test_replaces_fallbacks(toy):
    guarded, optional = toy('guarded'), toy('optional')
    assert guarded.has_nms is False
    assert optional.Head is None
    ops.install()
    mmcv_ops = importlib.import_module('mmcv.ops')
    assert guarded.nms is mmcv_ops.nms
    assert guarded.has_nms is True
    assert optional.Head is mmcv_ops.PointHead
    assert guarded.anything is None


def test_replaces_fallbacks_that_others_imported(toy):
    reexports = toy('reexports')
    ops.install()
    assert reexports.suppress is importlib.import_module('mmcv.ops').nms


def test_gives_classes_their_real_base(toy):
    heads = toy('heads')
    ops.install()
    real = importlib.import_module('mmcv.ops').PointHead
    assert heads.Mask2FormerHead.__mro__ == (heads.Mask2FormerHead, real, object)
    assert heads.Other.__mro__ == (heads.Other, heads.Plain, object)


def test_finishes_interrupted_packages(toy):
    with pytest.raises(ModuleNotFoundError, match='_ext'):
        toy('models')
    early, other = sys.modules['mmpose.models.early'], sys.modules['mmpose.models.other']
    ops.install()
    models = toy('models')
    assert models.late is importlib.import_module('mmcv.ops').nms
    assert models.other is other
    assert models.early is early.early  # the package's own name, not the module of that name


def test_changes_nothing_outside_the_toolboxes(toy):
    toy('guarded')
    own = importlib.import_module('mmine')
    ops.install()
    assert own.nms is None


def test_says_what_to_import_first_when_a_class_cannot_be_mended(toy):
    toy('stubborn')
    with pytest.raises(ImportError, match=r'mmpose\.stubborn .* Counter .* import hiera_mm first'):
        ops.install()


def test_leaves_alone_what_needs_no_mending(toy):
    importlib.import_module('mmpose')
    ops.install()
    assert 'mmcv.ops' not in sys.modules


def test_points_to_the_doctor_when_the_compiled_extension_does_not_load(toy, tmp_path):
    (tmp_path / 'mmcv' / '_ext.py').write_text('raise ImportError("undefined symbol: _ZN2at")')
    guarded = toy('guarded')
    with pytest.warns(UserWarning, match=r'undefined symbol: _ZN2at.*python -m hiera_mm\.doctor'):
        ops.install()
    assert guarded.has_nms is False


# Imports the modules named on the command line, whether they work or not, then hiera_mm, then all
# of both toolboxes, and prints every name of every module of theirs with what it stands for.
TELL_STATE = """
import importlib, json, sys, warnings
warnings.simplefilter('ignore')
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert '_ext' in str(error), error
import hiera_mm
import mmdet.apis, mmdet.utils.large_image, mmseg.apis

def describe(value):
    if isinstance(value, type):
        return ' < '.join(f'{cls.__module__}.{cls.__qualname__}' for cls in value.__mro__)
    name = getattr(value, '__qualname__', None) or getattr(value, '__name__', None)
    return f'{getattr(value, "__module__", "")}.{name}' if name else type(value).__name__

state = {
    f'{module}.{name}': describe(value)
    for module in sorted(sys.modules) if module.startswith(('mmcv', 'mmdet', 'mmseg'))
    for name, value in vars(sys.modules[module]).items() if not name.startswith('__')
}
for registry in (mmdet.registry.MODELS, mmseg.registry.MODELS, mmdet.registry.MODELS.root):
    for name, value in registry.module_dict.items():
        state[f'{registry.scope} registry: {name}'] = describe(value)
print(json.dumps(state))
"""


def tell_state(*names):
    root = Path(ops.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, '-c', TELL_STATE, *names],
        check=False, capture_output=True, text=True, cwd=root,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_real_toolboxes_end_in_the_same_state_in_either_order():
    first = tell_state()
    late = tell_state('mmdet.utils.large_image', 'mmseg.models', 'mmdet.models', 'mmdet.apis')
    assert len(first) > 10_000
    assert {name: late.get(name) for name in first} == first
