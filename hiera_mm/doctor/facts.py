"""What the doctor finds out about an environment, without trusting any of it."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from hiera_mm import ops

DISTRIBUTIONS = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
"""The distributions that provide each import name, those of the default stack first."""

FOUNDATION = (
    'numpy',
    'torch',
    'torchvision',
    'cv2',
    'mmengine',
    'mmcv',
    'mmcv._ext',
    'mmcv.ops',
    'hiera_mm.backbone',
)
"""What every user imports, in the order of dependence."""

TOOLBOXES = {'mmdet': ('mmdet', 'mmdet.models'), 'mmseg': ('mmseg', 'mmseg.models')}
"""What the users of one toolbox import, in the order of dependence."""

PKG_RESOURCES = 'pkg_resources'
"""What the original mmengine needs of setuptools."""

PROBED = (*FOUNDATION, *(name for names in TOOLBOXES.values() for name in names), PKG_RESOURCES)
"""Everything whose import is tried."""


@dataclass(frozen=True)
class Facts:
    """An environment as it was found.

    Attributes:
        python: Version of Python.
        versions: Version of each installed distribution named in `DISTRIBUTIONS`.
        errors: Why a module cannot be imported, by the module's name.
        operators: Where mmcv's operators come from, as `hiera_mm.ops.source` says it.
        torch_cuda: CUDA version torch was built for, None for a CPU build.
        devices: Names of the GPUs that torch can use.
        driver_devices: Names of the GPUs that NVIDIA's driver reports.
        cores: CPU cores that this process may use.
    """

    python: str
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    operators: str = 'missing'
    torch_cuda: str | None = None
    devices: tuple[str, ...] = ()
    driver_devices: tuple[str, ...] = ()
    cores: int = 1

    def installed(self, name: str) -> list[str]:
        """The installed distributions that provide an import name."""
        return [each for each in DISTRIBUTIONS[name] if each in self.versions]

    @property
    def toolbox_distributions(self) -> list[str]:
        """The installed distributions of mmengine, mmcv and the toolboxes."""
        names = [name for name in DISTRIBUTIONS if name.startswith('mm')]
        return [each for name in names for each in self.installed(name)]

    @property
    def stack(self) -> str:
        """``'onedl forks'``, ``'originals'``, ``'mixed'`` or ``'none'``."""
        kinds = {name.startswith('onedl-') for name in self.toolbox_distributions}
        if not kinds:
            return 'none'
        if len(kinds) > 1:
            return 'mixed'
        return 'onedl forks' if kinds.pop() else 'originals'


def gather() -> Facts:
    """Look at this interpreter's environment.

    Imports are tried in a child process, because a broken extension may end the interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'findings.jsonl'
        path.touch()
        command = [sys.executable, '-m', 'hiera_mm.doctor', '--probe', str(path)]
        process = subprocess.run(command, check=False, capture_output=True, text=True)
        found = dict(json.loads(line) for line in path.read_text(encoding='utf-8').splitlines())
    errors = {name: found[name] for name in PROBED if found.get(name) is not None}
    if process.returncode and not errors:
        raise RuntimeError(f'The doctor could not look around:\n{process.stderr}')
    return Facts(
        python=platform.python_version(),
        versions=installed_versions(),
        errors=errors,
        operators=found.get('operators', 'missing'),
        torch_cuda=found.get('torch_cuda'),
        devices=tuple(found.get('devices', ())),
        driver_devices=_driver_devices(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    )


def probe(path: Path) -> None:
    """Try the imports and write what was found, one JSON pair of name and finding a line.

    A later line replaces an earlier one of the same name: the pessimistic line that goes before
    each import stays only if the import ends the process.
    """
    ops.install()
    with path.open('w', encoding='utf-8') as file:

        def write(name: str, finding: object) -> None:
            file.write(json.dumps([name, finding]) + '\n')
            file.flush()

        for name in PROBED:
            write(name, 'importing it ends the Python process')
            write(name, _import_error(name))
        write('operators', ops.source())
        torch = sys.modules.get('torch')
        if torch is not None:
            write('torch_cuda', torch.version.cuda)
            indices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
            write('devices', [torch.cuda.get_device_name(index) for index in indices])


def _import_error(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a broken package may do
        return f'{type(error).__name__}: {error}'
    return None


def installed_versions() -> dict[str, str]:
    """Return the version of each installed distribution of :data:`DISTRIBUTIONS`."""
    versions = {}
    for name in (name for names in DISTRIBUTIONS.values() for name in names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _driver_devices() -> tuple[str, ...]:
    tool = shutil.which('nvidia-smi')
    if tool is None:
        return ()
    command = [tool, '--query-gpu=name', '--format=csv,noheader']
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return tuple(result.stdout.splitlines()) if result.returncode == 0 else ()
