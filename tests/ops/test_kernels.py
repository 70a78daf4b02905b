import inspect
import re
import subprocess
import sys
from pathlib import Path

import mmcv.ops
import pytest

import hiera_mm
from hiera_mm.ops.kernels import KERNELS

BINDINGS = Path(mmcv.__file__).parent / 'ops/csrc/pytorch/pybind.cpp'


@pytest.mark.skipif(not BINDINGS.exists(), reason='this mmcv comes without its sources')
@pytest.mark.parametrize('name', [name for name in KERNELS if not name.startswith('get_')])
def test_arguments_are_those_of_the_compiled_function(name):
    binding = re.search(rf'm\.def\("{name}",.*?\);', BINDINGS.read_text(), re.DOTALL)
    names = re.findall(r'py::arg\("(\w+)"\)', binding[0])
    assert list(inspect.signature(KERNELS[name]).parameters) == names


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


def test_environment_report_says_who_serves_the_operators():
    assert re.search('torchvision|GCC|clang|MSVC', mmcv.ops.get_compiler_version())
    assert isinstance(mmcv.ops.get_compiling_cuda_version(), str)
