"""The finder, and the stand-in for `mmcv._ext` with its kernels."""

import importlib
import inspect
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import mmcv.ops
import pytest
from mmengine.utils.dl_utils import mmcv_full_available

import hiera_mm
from hiera_mm import ops
from hiera_mm.ops import EXTENSION, Finder, StandIn
from hiera_mm.ops.kernels import KERNELS

BINDINGS = Path(mmcv.__file__).parent / 'ops/csrc/pytorch/pybind.cpp'


@pytest.fixture
def mmcv_folder(tmp_path, monkeypatch):
    """The folder of an mmcv that is empty but for what a test writes there."""
    mmcv = ModuleType('mmcv')
    mmcv.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, 'mmcv', mmcv)
    # Not delitem: the extension that a test imports must be gone again afterwards.
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    del sys.modules[EXTENSION]
    importlib.invalidate_caches()
    return tmp_path


def test_installs_one_finder_however_often_it_is_called():
    before = list(sys.meta_path)
    ops.install()
    ops.install()
    assert sys.meta_path == before
    assert [type(finder) for finder in sys.meta_path].count(Finder) == 1


def test_stands_in_only_for_the_extension(mmcv_folder):
    spec = find_spec(EXTENSION)
    assert isinstance(spec.loader, Finder)
    assert 'torchvision' in spec.origin
    assert find_spec('mmcv._ext2') is None
    assert Finder().find_spec('torch._ext', None) is None
    assert mmcv_full_available()
    assert ops.source() == 'torchvision'
    extension = importlib.import_module(EXTENSION)
    assert {name: getattr(extension, name) for name in KERNELS} == KERNELS


def test_a_compiled_extension_wins(mmcv_folder):
    (mmcv_folder / '_ext.py').write_text('nms = "compiled"\n')
    extension = importlib.import_module(EXTENSION)
    assert extension.nms == 'compiled'
    assert not hasattr(extension, 'an_operator_it_lacks')
    assert ops.source() == 'compiled'


def test_a_compiled_extension_that_does_not_load_is_not_replaced(mmcv_folder):
    (mmcv_folder / f'_ext{EXTENSION_SUFFIXES[0]}').write_bytes(b'built for something else')
    with pytest.raises(ImportError, match='_ext'):
        importlib.import_module(EXTENSION)
    assert ops.source() == 'broken'


def test_without_the_finder_there_are_no_operators(mmcv_folder, monkeypatch):
    others = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    monkeypatch.setattr(sys, 'meta_path', others)
    assert ops.source() == 'missing'


@pytest.mark.parametrize(
    ('installed', 'package', 'folder'),
    [
        ('onedl-mmcv', 'onedl-mmcv', 'onedl_mmcv-9.8.7'),
        ('mmcv-lite', 'mmcv', 'mmcv-9.8.7'),
        ('mmcv', 'mmcv', 'mmcv-9.8.7'),
    ],
)
def test_an_operator_without_implementation_says_when_called_how_to_compile_it(
    monkeypatch, installed, package, folder
):
    def version(name):
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return '9.8.7'

    monkeypatch.setattr('importlib.metadata.version', version)
    operator = StandIn(EXTENSION).border_align_forward
    with pytest.raises(ops.OperatorUnavailable, match="'border_align_forward'") as error:
        operator(1, key=2)
    assert f'{package}==9.8.7\n' in str(error.value)
    assert f'pip uninstall -y {installed}\n' in str(error.value)
    assert str(error.value).endswith(f'./{folder}')


def test_special_names_are_no_operators():
    with pytest.raises(AttributeError, match='__path__'):
        StandIn(EXTENSION).__path__  # noqa: B018


@pytest.mark.skipif(not BINDINGS.exists(), reason='this mmcv comes without its sources')
@pytest.mark.parametrize('name', [name for name in KERNELS if not name.startswith('get_')])
def test_arguments_are_those_of_the_compiled_function(name):
    binding = re.search(rf'm\.def\("{name}",.*?\);', BINDINGS.read_text(), re.DOTALL)
    names = re.findall(r'py::arg\("(\w+)"\)', binding[0])
    signature = inspect.signature(KERNELS[name])
    by_position = [
        each.name
        for each in signature.parameters.values()
        if each.kind == each.POSITIONAL_OR_KEYWORD
    ]
    assert names[: len(by_position)] == by_position
    signature.bind(**dict.fromkeys(names))  # all can be given by name, and no other is needed


def test_environment_report_says_who_serves_the_operators():
    assert re.search('torchvision|GCC|clang|MSVC', mmcv.ops.get_compiler_version())
    assert isinstance(mmcv.ops.get_compiling_cuda_version(), str)


@pytest.mark.slow
def test_kernels_import_nothing_of_openmmlab():
    package = Path(hiera_mm.__file__).parent
    code = f"""
import sys, types
for name, path in (('hiera_mm', {str(package)!r}), ('hiera_mm.ops', {str(package / 'ops')!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
import hiera_mm.ops.kernels
print([name for name in sys.modules if name.startswith('mm') and name != 'mmap'])
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr
