"""The finder and the stand-in for `mmcv._ext`."""

import importlib
import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import pytest
from mmengine.utils.dl_utils import mmcv_full_available

from hiera_mm import ops
from hiera_mm.ops.standin import EXTENSION, Finder, StandIn


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
    spec = importlib.util.find_spec(EXTENSION)
    assert isinstance(spec.loader, Finder)
    assert 'torchvision' in spec.origin
    assert importlib.util.find_spec('mmcv._ext2') is None
    assert Finder().find_spec('torch._ext', None) is None
    assert mmcv_full_available()
    assert ops.source() == 'torchvision'


def test_serves_the_kernels_under_their_names(mmcv_folder):
    from hiera_mm.ops.kernels import KERNELS

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


def test_an_operator_without_implementation_fails_when_called_and_not_before():
    operator = StandIn(EXTENSION).border_align_forward
    with pytest.raises(ops.OperatorUnavailable, match="'border_align_forward'"):
        operator(1, key=2)


@pytest.mark.parametrize(
    ('installed', 'package', 'folder'),
    [
        ('onedl-mmcv', 'onedl-mmcv', 'onedl_mmcv-9.8.7'),
        ('mmcv-lite', 'mmcv', 'mmcv-9.8.7'),
        ('mmcv', 'mmcv', 'mmcv-9.8.7'),
    ],
)
def test_the_error_names_the_commands_for_the_installed_mmcv(
    monkeypatch, installed, package, folder
):
    def version(name):
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return '9.8.7'

    monkeypatch.setattr('importlib.metadata.version', version)
    with pytest.raises(ops.OperatorUnavailable) as error:
        StandIn(EXTENSION).border_align_forward()
    assert f'{package}==9.8.7\n' in str(error.value)
    assert f'pip uninstall -y {installed}\n' in str(error.value)
    assert str(error.value).endswith(f'./{folder}')


def test_special_names_are_no_operators():
    with pytest.raises(AttributeError, match='__path__'):
        StandIn(EXTENSION).__path__  # noqa: B018
