"""Tells what is installed and how to repair it: ``python -m hiera_mm.doctor``.

It must run where nothing else does: this file imports the standard library alone, and a child
process, which a broken package may end, runs it as a script to try the imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

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
    'hiera_mm.backbone',  # from here on mmcv's operators are supplied where it has none
    'mmcv._ext',
    'mmcv.ops',
)
"""What every user imports, in the order of dependence."""

TOOLBOXES = {'mmdet': ('mmdet', 'mmdet.models'), 'mmseg': ('mmseg', 'mmseg.models')}
"""What the users of one toolbox import besides."""

OPERATORS = {
    'compiled': 'compiled mmcv',
    'torchvision': 'torchvision, this mmcv has no compiled ones',
    'broken': 'none, they do not load',
    'missing': 'none',
}
"""What the report calls the answers of `hiera_mm.ops.source`."""


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
    devices: Sequence[str] = ()
    driver_devices: Sequence[str] = ()
    cores: int = 1

    def installed(self, *names: str) -> list[str]:
        """The installed distributions that provide these import names."""
        return [each for name in names for each in DISTRIBUTIONS[name] if each in self.versions]

    @property
    def toolboxes(self) -> list[str]:
        """The installed distributions of mmengine, mmcv and the toolboxes."""
        return self.installed('mmengine', 'mmcv', 'mmdet', 'mmseg')

    @property
    def stack(self) -> str:
        """``'onedl forks'``, ``'originals'``, ``'mixed'`` or ``'none'``."""
        kinds = {'onedl' in name for name in self.toolboxes}
        if len(kinds) != 1:
            return 'mixed' if kinds else 'none'
        return 'onedl forks' if kinds.pop() else 'originals'


@dataclass(frozen=True)
class Problem:
    """Something wrong with an environment.

    Attributes:
        what: What is wrong, in one sentence.
        cure: What to do about it, with the command where there is one.
        harmless: True if hiera_mm works all the same.
    """

    what: str
    cure: str
    harmless: bool = False


def gather() -> Facts:
    """Look at this interpreter's environment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'found.json'
        command = [sys.executable, __file__, '--probe', path]
        process = subprocess.run(command, check=False, capture_output=True, text=True)
        found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    if process.returncode and not found.get('errors'):
        raise RuntimeError(f'The doctor could not look around:\n{process.stderr}')
    return Facts(
        python=platform.python_version(),
        versions=installed_versions(),
        driver_devices=_driver_devices(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        **found,
    )


def probe(path: Path) -> None:
    """Try the imports and write what was found, as arguments of `Facts`.

    It is written before each import too, as if that ended the process: then it stays so.
    """
    here = Path(__file__).parent
    sys.path[:] = ['', *(entry for entry in sys.path if Path(entry) != here)]  # as for `python -m`
    errors: dict[str, str] = {}
    found: dict[str, object] = {'errors': errors}

    def save() -> None:
        path.write_text(json.dumps(found), encoding='utf-8')

    for name in (*FOUNDATION, *TOOLBOXES['mmdet'], *TOOLBOXES['mmseg'], 'pkg_resources'):
        errors[name] = 'importing it ends the Python process'
        save()
        try:
            importlib.import_module(name)
            del errors[name]
        except (Exception, SystemExit) as error:  # whatever a broken package may do
            errors[name] = f'{type(error).__name__}: {error}'
    save()
    if 'torch' not in errors:
        torch = sys.modules['torch']
        found['torch_cuda'] = torch.version.cuda
        indices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        found['devices'] = [torch.cuda.get_device_name(index) for index in indices]
    save()
    found['operators'] = importlib.import_module('hiera_mm.ops').source()
    save()


def installed_versions() -> dict[str, str]:
    """Return the version of each installed distribution of :data:`DISTRIBUTIONS`."""
    versions = {}
    for name in (name for names in DISTRIBUTIONS.values() for name in names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _driver_devices() -> list[str]:
    tool = shutil.which('nvidia-smi')
    if tool is None:
        return []
    command = [tool, '--query-gpu=name', '--format=csv,noheader']
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return result.stdout.splitlines() if result.returncode == 0 else []


def diagnose(facts: Facts) -> list[Problem]:
    """Return the problems of an environment, the one to cure first in front."""
    return [*_distributions(facts), *_imports(facts), *_gpu(facts), *_original_mmengine(facts)]


def _distributions(facts: Facts) -> Iterator[Problem]:
    """What is installed twice, together with a stranger, or not at all."""
    names = ' '.join(facts.toolboxes)
    start_over = (
        f"pip uninstall -y {names} && pip install 'hiera_mm[onedl]' "
        '(or hiera_mm[openmmlab] for the originals)'
    )
    # Two distributions of one import name overwrite each other's files.
    doubled = [names for name in DISTRIBUTIONS if len(names := facts.installed(name)) > 1]
    if doubled:
        pairs = '; '.join(' and '.join(names) for names in doubled)
        yield Problem(f'Installed over one another: {pairs}.', start_over)
    elif facts.stack == 'mixed':
        names = ', '.join(facts.toolboxes)
        yield Problem(f'Forks and originals are mixed: {names}.', start_over)

    needed = [name for name in DISTRIBUTIONS if name not in TOOLBOXES]
    missing = [name for name in needed if not facts.installed(name)]
    if not facts.installed(*TOOLBOXES):
        missing.append(' or '.join(TOOLBOXES))
    if missing:
        yield Problem(f'Not installed: {", ".join(missing)}.', _install(facts))


def _imports(facts: Facts) -> Iterator[Problem]:
    """The first import that fails, or the first of each toolbox if all below them works."""
    broken = _first_broken(facts, FOUNDATION)
    if broken:
        yield broken
        return
    for toolbox, names in TOOLBOXES.items():
        if facts.installed(toolbox) and (broken := _first_broken(facts, names)):
            yield broken


def _first_broken(facts: Facts, names: Iterable[str]) -> Problem | None:
    for name in names:
        package = name.partition('.')[0]
        missing = package in DISTRIBUTIONS and not facts.installed(package)
        if name in facts.errors and not missing:
            error = ' '.join(facts.errors[name].split())
            shown = error if len(error) <= 200 else f'{error[:197]}...'
            return Problem(f'{name} cannot be imported: {shown}', _cure(facts, name, error))
    return None


def _cure(facts: Facts, name: str, error: str) -> str:
    """The cure for an import that fails."""
    mmcv = ' '.join(facts.installed('mmcv'))
    numpy_1 = (
        r'_ARRAY_API|numpy\.core\.multiarray failed|numpy\.dtype size changed|'
        'compiled using NumPy 1'
    )
    if re.search(numpy_1, error):
        return (
            "Something compiled for NumPy 1 meets NumPy 2: pip install 'numpy<2', or install "
            f'again what provides {name}.'
        )
    if name == 'torchvision':
        return (
            'torch and torchvision do not fit; take both from the same place: '
            'pip install --force-reinstall torch torchvision'
        )
    if name == 'cv2' and re.search(r'lib(GL|gthread|glib)', error):
        return (
            'OpenCV misses a system library: apt-get install libgl1 libglib2.0-0, or '
            'pip uninstall -y opencv-python opencv-python-headless && '
            'pip install opencv-python-headless'
        )
    if name == 'mmcv._ext':
        return (
            'This mmcv was compiled for another torch or Python. To use torchvision instead: '
            f'pip uninstall -y {mmcv} && {_install(facts, "--no-cache-dir ")}. '
            'To compile it again: docs/operators.md.'
        )
    if 'MMCV==' in error:  # the versions that a toolbox asserts, in another distribution's name
        return f'pip uninstall -y {mmcv} && {_install(facts)}'
    package = name.partition('.')[0]
    if package in DISTRIBUTIONS and package != 'torch' and f"'{package}." in error:
        # Half of it is missing, and pip takes it for installed.
        damaged = facts.installed(package)[0]
        version = facts.versions[damaged]
        return f'pip install --force-reinstall --no-deps {damaged}=={version}'
    return _install(facts)


def _install(facts: Facts, options: str = '') -> str:
    """The command that installs the stack that is there, or the default one."""
    extra = 'openmmlab' if facts.stack == 'originals' else 'onedl'
    return f"pip install {options}'hiera_mm[{extra}]'"


def _gpu(facts: Facts) -> Iterator[Problem]:
    """A GPU that torch cannot use: built without CUDA, or for a newer one than the driver's."""
    machine = f'This machine has {", ".join(facts.driver_devices)}, but torch'
    torch = facts.versions.get('torch')
    if not facts.driver_devices:
        return
    if facts.torch_cuda and not facts.devices:
        yield Problem(
            f'{machine}, built for CUDA {facts.torch_cuda}, cannot use it.',
            'Update the NVIDIA driver, or install a torch and torchvision built for an older CUDA '
            '(https://pytorch.org/get-started/previous-versions); look at CUDA_VISIBLE_DEVICES '
            'too.',
        )
    if not facts.torch_cuda and torch and 'torch' not in facts.errors:
        yield Problem(
            f'{machine} {torch} is a build for CPU only.',
            'pip install --force-reinstall torch torchvision',
        )


def _original_mmengine(facts: Facts) -> Iterator[Problem]:
    """What the original mmengine cannot do with today's Python, torch and setuptools."""
    mmengine = f'mmengine {facts.versions.get("mmengine")}'
    if 'mmengine' not in facts.versions:
        return
    if _release(facts.python) >= (3, 14):
        yield Problem(
            f'{mmengine} calls pkgutil.find_loader, which Python {facts.python} no longer has.',
            "Use Python 3.13 or older, or the maintained forks: pip install 'hiera_mm[onedl]'",
        )
    torch = facts.versions.get('torch', '0')
    if _release(torch) >= (2, 6):
        yield Problem(
            f'{mmengine} alone cannot reload its own checkpoints with torch {torch}.',
            "Use hiera_mm's own tools, which read them safely. A script of yours does the same "
            'after hiera_mm.engine.make_loading_safe().',
            harmless=True,
        )
    if 'pkg_resources' in facts.errors:
        yield Problem(
            f'{mmengine} finds no configs of other packages (`mmdet::...`, get_config) without '
            'pkg_resources.',
            "pip install 'setuptools<82'",
            harmless=True,
        )


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def report(facts: Facts, problems: Iterable[Problem]) -> str:
    """Return the report, one screen of plain text."""
    import hiera_mm  # not above, so that the child process meets torch's own error first

    cuda = facts.torch_cuda
    build = f'torch built for CUDA {cuda}' if cuda else 'a CPU build of torch'
    rows = {
        'hiera_mm': f'{hiera_mm.__version__} ({Path(hiera_mm.__file__).parent})',
        'python': f'{facts.python} ({sys.executable})',
    }
    for name in DISTRIBUTIONS:
        installed = [f'{each} {facts.versions[each]}' for each in facts.installed(name)]
        rows[name] = ', '.join(installed) or 'not installed'
    rows |= {
        'stack': facts.stack,
        'operators': OPERATORS[facts.operators],
        'CUDA': f'{", ".join(facts.devices) or "no usable device"} ({build})',
        'cores': str(facts.cores),
    }
    lines = [f'{name:<12} {value}' for name, value in rows.items()]
    for problem in problems:
        kind = 'NOTE' if problem.harmless else 'BROKEN'
        lines += ['', f'{kind}: {problem.what}', f'  cure: {problem.cure}']
    if all(problem.harmless for problem in problems):
        lines += ['', 'All is well.']
    return '\n'.join(lines)


def main() -> int:
    """Print the report; return the exit status, 1 if something is broken."""
    parser = argparse.ArgumentParser(
        prog='python -m hiera_mm.doctor', description='Tell what is installed and how to repair it.'
    )
    parser.add_argument('--probe', type=Path, help=argparse.SUPPRESS)  # the child of `gather`
    args = parser.parse_args()
    if args.probe is not None:
        probe(args.probe)
        return 0
    facts = gather()
    problems = diagnose(facts)
    print(report(facts, problems))
    return int(any(not problem.harmless for problem in problems))


if __name__ == '__main__':
    sys.exit(main())
